"""Signing: what is added to a URL just before it is asked for, from the environment's credentials; never kept."""

from __future__ import annotations

import importlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar
from urllib.parse import urlsplit

from stacchip_core.errors import InputError, ReadError
from stacchip_core.sources.gate import Gate, host_of
from stacchip_core.sources.item import parse_time
from stacchip_core.sources.remote import Sign, Signed, fetch, unsigned

# Source: planetarycomputer.microsoft.com, "Using tokens for data access".
_BLOB_HOST = re.compile(r"([a-z0-9]{3,24})\.blob\.core\.windows\.net")
_CONTAINER = re.compile(r"/([a-z0-9$][a-z0-9-]{0,62})/")
# Tokens are renewed so long before they end, or in the last fifth of a shorter life: a read may take a minute.
_MARGIN_S = 300.0
_MAX_TOKEN_BYTES = 65_536

# Where a bearer token of Earthdata Login belongs. Source: urs.earthdata.nasa.gov, "Bearer tokens".
_EARTHDATA_HOSTS = re.compile(r"(.+\.)?(earthdata|earthdatacloud)\.nasa\.gov")

Hook = Callable[[str, bool], Signed | str]
F = TypeVar("F", bound=Callable[..., object])
_MARK = "is_stacchip_signer"


def signer(function: F) -> F:
    """Mark a function as one that signs URLs: a configuration may name it, as "package.module:function", and no other.

    It takes the URL, and whether the last signature was refused; it returns the signed URL, or a `Signed` with headers.
    """
    setattr(function, _MARK, True)
    return function


def sign_of(name: str | None, token_url: str) -> Sign:
    """How to sign, by its name in a `Storage`.

    Raises:
        InputError: there is no such way, or the environment lacks what it needs.
    """
    if name is None:
        return unsigned
    if name == "planetary-computer":
        return _planetary_computer(token_url)
    return _earthdata if name == "earthdata" else _hooked(name)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    made: float
    ends: float

    @property
    def is_fresh(self) -> bool:
        return time.time() < self.ends - min(_MARGIN_S, (self.ends - self.made) / 5)


class _PlanetaryComputer:
    """Tokens of Azure containers, each asked for once by whichever thread needs it first."""

    def __init__(self, token_url: str) -> None:
        self._url = token_url.rstrip("/")
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, url: str, refused: Signed | None) -> Signed:
        """Add the token of its container to a blob's URL; other URLs stay as they are."""
        parts = urlsplit(url)
        account, container = _BLOB_HOST.fullmatch(parts.hostname or ""), _CONTAINER.match(parts.path)
        if account is None or container is None or "sig=" in parts.query:
            return Signed(url)
        place = (account[1], container[1])
        with self._lock:
            lock = self._locks.setdefault(place, threading.Lock())
        with lock:
            token = self._tokens.get(place)
            if token is None or not token.is_fresh or (refused is not None and refused.url == _with(url, token.text)):
                token = self._tokens[place] = self._ask(*place)
        return Signed(_with(url, token.text))

    def _ask(self, account: str, container: str) -> _Token:
        key = os.environ.get("PC_SDK_SUBSCRIPTION_KEY")
        body = fetch(
            f"{self._url}/{account}/{container}",
            Gate(own=(host_of(self._url),)),
            limit=_MAX_TOKEN_BYTES,
            headers={"Ocp-Apim-Subscription-Key": key} if key else {},
        )
        try:
            answer = json.loads(body)
            ends = parse_time(answer["msft:expiry"], "msft:expiry")
            token = _Token(str(answer["token"]), time.time(), ends.timestamp() if ends else 0.0)
        except (ValueError, KeyError, TypeError) as err:
            name = f"{account}/{container}"
            raise ReadError(f"the token server's answer for {name} is no token ({type(err).__name__})") from None
        return token


@lru_cache(maxsize=8)
def _planetary_computer(token_url: str) -> _PlanetaryComputer:
    """One cache of tokens for the process."""
    return _PlanetaryComputer(token_url)


def _with(url: str, token: str) -> str:
    address, mark, fragment = url.partition("#")
    return f"{address}{'&' if '?' in address else '?'}{token}{mark}{fragment}"


def _earthdata(url: str, _refused: Signed | None) -> Signed:
    """A bearer token for NASA's own hosts, over https alone; what they redirect to carries a signature of its own."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not _EARTHDATA_HOSTS.fullmatch(parts.hostname or ""):
        return Signed(url)
    token = os.environ.get("EARTHDATA_TOKEN")
    if not token:
        raise InputError("signing='earthdata' needs a token of Earthdata Login, in the variable EARTHDATA_TOKEN")
    return Signed(url, {"Authorization": f"Bearer {token}"})


@lru_cache(maxsize=32)
def _hooked(name: str) -> Sign:
    """The user's own function.

    Raises:
        InputError: no such function, or one that is not marked: a configuration must not name any function there is.
    """
    module, _, function = name.partition(":")
    try:
        hook: Hook = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as err:
        raise InputError(
            f"signing={name!r}: there are 'planetary-computer', 'earthdata', and functions as 'package.module:name'; "
            f"that one can't be imported ({type(err).__name__})"
        ) from err
    if getattr(hook, _MARK, False) is not True:
        raise InputError(
            f"signing={name!r}: that function is not marked as one that signs URLs, by @signer of "
            "stacchip_core.sources.signing"
        )

    def sign(url: str, refused: Signed | None) -> Signed:
        try:
            made = hook(url, refused is not None)
        except Exception as err:  # its message may hold the URL that it signed
            raise ReadError(f"signing by {name!r} failed: {type(err).__name__}") from None
        return made if isinstance(made, Signed) else Signed(str(made))

    return sign
