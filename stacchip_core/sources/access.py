"""What may be read, and with which settings: storage options, href gate, href resolution."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from stacchip_core.errors import HrefRefusedError, InputError, ReadError
from stacchip_core.sources.gate import Gate, origin_of
from stacchip_core.sources.hrefs import REMOTE_SCHEMES, check_spelling
from stacchip_core.sources.validation import numbered

# Query parameters that are secrets by themselves (AWS SigV4, Google signed URLs, tokens), and those that belong to a
# signature and mean something else without one: Azure SAS (Azure Storage, "Create a service SAS") beside `sig`; AWS V2
# and CloudFront beside `signature`.
_SECRET = re.compile(r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|token|access_token|sig|signature")
_BESIDE = {
    "sig": {
        *("se", "sp", "spr", "sip", "sr", "srt", "ss", "sv", "st", "ses", "sdd", "saoid", "suoid", "scid"),
        *("skoid", "sktid", "skt", "ske", "sks", "skv"),
    },
    "signature": {"expires", "policy", "key-pair-id"},
}
_USER_INFO = re.compile(r"^((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)[^/]*@")


class Storage(BaseModel):
    """How to reach object storage, said once for s3fs and GDAL alike; credentials come from the environment only."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=numbered)

    endpoint: str | None = Field(
        None, title="Endpoint", description="S3 endpoint URL; none: the cloud's own.", max_length=500
    )
    region: str | None = Field(None, title="Region", description="Region of the bucket.", max_length=64)
    anonymous: bool = Field(False, title="Anonymous", description="Read without credentials.")
    requester_pays: bool = Field(
        False, title="Requester pays", description="Agree to pay for requests on requester-pays buckets."
    )

    hosts: tuple[str, ...] = Field(
        (),
        title="Hosts",
        description="Hosts whose files may be read: data.example.org, *.example.org, 10.0.0.5:8080; none: all on "
        "public addresses. Hosts on private networks, and those that servers redirect to, must be named.",
    )

    signing: str | None = Field(
        None,
        title="Signing",
        description="How URLs are signed when they are read: planetary-computer, earthdata, or a function of yours "
        "as package.module:function; none: not at all.",
        max_length=200,
        pattern=r"^(planetary-computer|earthdata|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
    )
    signing_url: str = Field(
        "https://planetarycomputer.microsoft.com/api/sas/v1/token",
        title="Signing server",
        description="Where planetary-computer asks for tokens.",
        max_length=500,
    )

    def gate(self, *own: str) -> Gate:
        """The hosts that may be asked: those named, the endpoint, and `own` (each `host:port`, or empty)."""
        endpoint = (origin_of(self.endpoint).netloc,) if self.endpoint and is_remote(self.endpoint) else ()
        return Gate(self.hosts, tuple(dict.fromkeys(host for host in (*endpoint, *own) if host)))

    def fsspec_options(self, protocol: str) -> dict[str, object]:
        """Keyword arguments for `fsspec.filesystem(protocol)`."""
        if protocol not in ("s3", "s3a"):
            return {}
        options: dict[str, object] = {"anon": self.anonymous, "requester_pays": self.requester_pays}
        if self.endpoint:
            options["endpoint_url"] = self.endpoint
        if self.region:
            options["client_kwargs"] = {"region_name": self.region}
        return options

    def gdal_options(self) -> dict[str, str]:
        """GDAL configuration for the same endpoint, region and account."""
        options = {"AWS_NO_SIGN_REQUEST": "YES"} if self.anonymous else {}
        if self.endpoint:
            parts = urlsplit(self.endpoint)
            options |= {
                "AWS_S3_ENDPOINT": parts.netloc,
                "AWS_HTTPS": "NO" if parts.scheme == "http" else "YES",
                "AWS_VIRTUAL_HOSTING": "FALSE",
            }
        if self.region:
            options["AWS_REGION"] = self.region
        if self.requester_pays:
            options["AWS_REQUEST_PAYER"] = "requester"
        return options


DEFAULT_STORAGE = Storage()


def as_roots(folders: str | Path | Iterable[str | Path]) -> tuple[str, ...]:
    """Local folders that may be read, as texts; one folder may be given by itself.

    Raises:
        InputError: something else than names of folders.
    """
    given = (folders,) if isinstance(folders, str | Path) else tuple(folders) if isinstance(folders, Iterable) else None
    if given is None or not all(isinstance(folder, str | Path) and str(folder) for folder in given):
        raise InputError(f"local_roots are folders, as texts or paths; found {folders!r}")
    return tuple(map(str, given))


def is_remote(href: str) -> bool:
    """Whether `href` names an object on a network."""
    scheme, separator, _ = href.partition("://")
    return bool(separator) and scheme.lower() in REMOTE_SCHEMES


def resolve_href(href: str, base: str, local_roots: tuple[str, ...] = ()) -> str:
    """Full URL of an asset, or its path relative to a local root.

    Args:
        href: as written in the item: absolute, or relative to the item.
        base: where the item was read: its URL, or its folder relative to a local root ("" = the root itself).
        local_roots: folders that may be read; an absolute local href is stored relative to the one that holds it.

    Raises:
        HrefRefusedError: unknown scheme, control characters, or a local path outside the roots.
    """
    _refuse_unsafe(href)
    if is_remote(href):
        return href
    is_file = href.lower().startswith("file:")
    if is_remote(base):
        if is_file:
            raise HrefRefusedError("an item read from a network names a local file", rule="remote-names-local")
        scheme, rest = base.split("://", 1)  # urljoin knows how to join paths of http, not of s3
        joined = urljoin(f"http://{rest}", href).replace("http://", f"{scheme}://", 1)
        _refuse_unsafe(joined)
        return joined
    path = unquote(urlsplit(href).path) if is_file else href
    if not Path(path).is_absolute():
        return posixpath.normpath(posixpath.join(base, path))
    relative = _below_a_root(Path(path), local_roots)
    if relative is None:
        raise HrefRefusedError(
            f"local file {Path(path).name!r} is outside local_roots; add its folder to local_roots to read it",
            rule="local-root",
        )
    return relative


def locate(href: str, local_roots: tuple[str, ...]) -> str:
    """What to open for a resolved href: the URL itself, or a file below one of `local_roots`.

    Raises:
        HrefRefusedError: it lies outside every root, a link leads out of it, or several roots have such a file.
        ReadError: there is no such file below the roots.
    """
    _refuse_unsafe(href)
    if is_remote(href):
        return href
    bases = [Path(root).resolve() for root in local_roots]
    try:
        inside = [path for base in bases if (path := (base / href).resolve()).is_relative_to(base)]
        existing = list(dict.fromkeys(path for path in inside if path.exists()))
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as err:  # too long, a ring of links, not to be entered
        raise HrefRefusedError(
            f"local file {href[:200]!r} can't be looked up: {type(err).__name__}", rule="local-root"
        ) from err
    if len(existing) > 1:
        raise HrefRefusedError(
            f"local file {href!r} is below {len(existing)} of the local_roots: name the one meant", rule="local-root"
        )
    if existing:
        return str(existing[0])
    if inside:
        raise ReadError(f"local file {href!r} is not there, in none of the {len(bases)} local_roots")
    if not local_roots:
        raise HrefRefusedError(
            f"local file {href!r} may not be read: name the folder that holds it, by local_roots or --local-root",
            rule="local-root",
        )
    raise HrefRefusedError(
        f"local file {href!r} is not below the {len(local_roots)} local_roots given", rule="local-root"
    )


def unsigned_href(href: str) -> str:
    """`href` without user info and signature parameters; anything else stays as it is, to the character."""
    address, mark, fragment = href.partition("#")
    address, _, query = address.partition("?")
    parameters = query.split("&")
    names = [unquote(text.partition("=")[0]).lower() for text in parameters]
    beside = {name for mark, others in _BESIDE.items() if mark in names for name in others}
    kept = [
        text for text, name in zip(parameters, names, strict=True) if not _SECRET.fullmatch(name) and name not in beside
    ]
    if len(kept) < len(parameters):
        tail = f"?{'&'.join(kept)}" if kept else ""
    else:
        tail = href[len(address) : len(href) - len(mark + fragment)]
    return _USER_INFO.sub(r"\1", address) + tail + mark + fragment


def _refuse_unsafe(href: str) -> None:
    check_spelling(href, repr(unsigned_href(href)[:200]))


def _below_a_root(path: Path, local_roots: tuple[str, ...]) -> str | None:
    """`path` relative to the first root that holds it."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a ring of links
        return None
    for root in map(Path, local_roots):
        if real.is_relative_to(root.resolve()):
            return real.relative_to(root.resolve()).as_posix()
    return None
