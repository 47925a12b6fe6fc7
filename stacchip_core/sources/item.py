"""STAC items as plain JSON: reading, cleaning, fingerprints, dates."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote

from stacchip_core.errors import InputError, InvalidItemError, ReadError, TransientReadError
from stacchip_core.sources.access import is_remote, unsigned_href
from stacchip_core.sources.gate import host_of

JSON = dict[str, Any]

# An item is a few kB, a catalog page of links some MB: a bound on what a stranger may send.
MAX_JSON_BYTES = 16 * 2**20
TIMEOUT_S = 60.0
# Levels of objects and lists: a geometry in an asset's statistics has ten; Python itself gives up at a thousand.
MAX_DEPTH = 64
# An item is a few kB; the largest seen has some 200 assets and a footprint of 2000 positions.
MAX_ITEM_CHARACTERS = 4 * 2**20
MAX_ASSETS = 1000
MAX_POSITIONS = 100_000

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")  # RFC 3339

# Reserved by RFC 3986, and the percent sign: all else in a URL is percent-encoded before it is asked for.
_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;=~"


class StacObject(Protocol):
    """What is used of a `pystac.Item`."""

    def to_dict(self, include_self_link: bool = True, transform_hrefs: bool = True) -> JSON:
        """Plain JSON of the item."""


@dataclass(frozen=True, slots=True)
class StagedItem:
    """An item on its way into an index.

    Attributes:
        item: the item's JSON; where it could not be read, {"id": what it was found as}.
        base: URL it was read from, or its folder relative to a local root, in posix form ("" = the root itself).
        error: why discovery could not read it, if so.
        host: `host:port` that it was read from, by us; its files there may be read, whatever the host's address.
        cause: the same in a word, one of `CAUSES`.
        found_as: where its file is, as a failure of it is named: a URL, or a path below a local root.
        attempts: how often it was tried before, as far as failures of it are on record.
        mends: keys of failures that are over now that there is an item at `found_as`.
    """

    item: JSON
    base: str = ""
    error: str | None = None
    host: str = ""
    cause: str = ""
    found_as: str = ""
    attempts: int = 0
    mends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ItemSource:
    """An item as a user gave it, the local folders that it may read from, and the host that it was read from by us."""

    item: JSON
    base: str = ""
    local_roots: tuple[str, ...] = ()
    host: str = ""


def read_item(item: StacObject | Mapping[str, Any] | str | Path, local_roots: tuple[str, ...] = ()) -> ItemSource:
    """Take an item in any form that users have it in; nothing of it is changed.

    Args:
        item: `pystac.Item`, plain JSON, or the path or http(s) URL of a JSON file.
        local_roots: folders that may be read. An item given as a path outside them allows its own folder.

    Raises:
        InvalidItemError: it is no STAC item.
        ReadError, TransientReadError: the file or URL can't be read.
    """
    if isinstance(item, Path) or (isinstance(item, str) and not is_remote(item)):
        return _read_local_item(Path(item), local_roots)
    if isinstance(item, str):
        base = unsigned_href(item)
        return ItemSource(checked(read_json(item), base), base, local_roots, host_of(base))
    if not isinstance(item, Mapping):
        if not hasattr(item, "to_dict"):
            kind = type(item).__name__
            raise InvalidItemError(f"expected a STAC item, its JSON, or a path or URL of one; found {kind}")
        item = item.to_dict(include_self_link=True, transform_hrefs=False)
    data = checked(_plain(item), "given")
    # hrefs that were rewritten to local files have left the place that the self link tells of
    is_local = any(Path(asset["href"]).is_absolute() for _, asset in assets_of(data))
    return ItemSource(data, "" if is_local else _self_href(data), local_roots)


def _read_local_item(path: Path, local_roots: tuple[str, ...]) -> ItemSource:
    data, folder = checked(read_json(str(path)), path.name), path.resolve().parent
    for root in local_roots:
        if folder.is_relative_to(Path(root).resolve()):
            return ItemSource(data, folder.relative_to(Path(root).resolve()).as_posix(), local_roots)
    return ItemSource(data, "", (str(folder), *local_roots))


def _plain(item: Mapping[str, Any]) -> JSON:
    """Plain JSON of what was given: a copy, with dates and the like as text."""
    try:
        return cast(JSON, json.loads(json.dumps(item, default=str)))
    except (ValueError, TypeError, RecursionError) as err:
        raise InvalidItemError(f"item {str(item.get('id'))[:80]!r} is no plain JSON: {err}") from err


def read_json(where: str) -> JSON:
    """Read a JSON object from a local path or an http(s) URL.

    Raises:
        ReadError: missing, refused, too large, or not a JSON object; TransientReadError where a retry may help.
    """
    name = unsigned_href(where) if is_remote(where) else Path(where).name
    text = _read_url(where, name) if is_remote(where) else _read_file(where, name)
    if len(text) > MAX_JSON_BYTES:
        raise ReadError(f"{name}: more than {MAX_JSON_BYTES // 2**20} MiB of JSON")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ReadError(f"{name}: not JSON: {err}") from err
    if not isinstance(data, dict):
        raise ReadError(f"{name}: expected a JSON object, found {type(data).__name__}")
    return data


def _read_file(path: str, name: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_JSON_BYTES + 1)
    except OSError as err:
        raise ReadError(f"{name}: {err.strerror or err}") from err


def _read_url(url: str, name: str) -> bytes:
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{name}: JSON is read from http(s) URLs and local paths; read it yourself and pass it on")
    try:
        with urllib.request.urlopen(quote(url, safe=_URL_CHARACTERS), timeout=TIMEOUT_S) as response:
            return cast(bytes, response.read(MAX_JSON_BYTES + 1))
    except urllib.error.HTTPError as err:
        err.close()
        kind = TransientReadError if err.code in (408, 429) or err.code >= 500 else ReadError
        raise kind(f"{name}: HTTP {err.code}") from err
    except (http.client.InvalidURL, ValueError) as err:
        raise ReadError(f"{name}: no usable URL: {err}") from err
    except (OSError, http.client.HTTPException) as err:
        raise TransientReadError(f"{name}: {getattr(err, 'reason', err)}") from err


def checked(data: JSON, name: str) -> JSON:
    """`data`, if it has the form of a STAC item; `name` says where it is from.

    Raises:
        InvalidItemError: not a feature with properties, no usable id, or nested deeper than any item is.
    """
    if data.get("type") != "Feature" or not isinstance(data.get("properties"), dict):
        raise InvalidItemError(f"{name}: not a STAC item: it has no type 'Feature' with properties")
    item_id = data.get("id")
    if not isinstance(item_id, str) or not is_name(item_id):
        raise InvalidItemError(
            f"{name}: an item's id is a text of 1 to 512 bytes without control characters, found {str(item_id)[:80]!r}",
            rule="item-id",
        )
    _check_size(data, f"{name}: item {item_id!r}")
    return data


def _check_size(data: JSON, name: str) -> None:
    """Raise for an item that is larger or deeper than any item is."""
    assets = data.get("assets")
    if isinstance(assets, dict) and len(assets) > MAX_ASSETS:
        raise InvalidItemError(f"{name} has {len(assets)} assets, more than {MAX_ASSETS}", rule="item-size")
    if _levels([data.get("geometry")], 2 * MAX_POSITIONS, name) > 2 * MAX_POSITIONS:
        raise InvalidItemError(f"{name} has more than {MAX_POSITIONS} positions in its geometry", rule="geometry-size")
    if _levels([data], MAX_ITEM_CHARACTERS, name) > MAX_ITEM_CHARACTERS:
        raise InvalidItemError(f"{name} has more than {MAX_ITEM_CHARACTERS // 2**20} MiB of JSON", rule="item-size")


def _levels(level: list[Any], limit: int, name: str) -> int:
    """Roughly the characters of nested JSON, counted level by level until there are more than `limit`.

    Raises:
        InvalidItemError: it is nested deeper than any item is.
    """
    size = 0
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
                size += sum(map(len, map(str, value)))
            elif isinstance(value, list):
                inner.extend(value)
            else:
                size += len(value) if isinstance(value, str) else 1
        if not inner or size > limit:
            return size
        level = inner
    raise InvalidItemError(f"{name} is nested more than {MAX_DEPTH} levels deep", rule="item-nesting")


def is_name(text: str) -> bool:
    """Whether a text can name an item or collection: 1 to 512 bytes of UTF-8 without control characters."""
    return 0 < len(text.encode("utf-8", "replace")) <= 512 and not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text)


def _self_href(item: Mapping[str, Any]) -> str:
    links = item.get("links")
    own = [link for link in links if isinstance(link, Mapping)] if isinstance(links, list) else []
    hrefs = [link.get("href") for link in own if link.get("rel") == "self"]
    return next((unsigned_href(href) for href in hrefs if isinstance(href, str) and is_remote(href)), "")


def unsigned(item: Mapping[str, Any]) -> JSON:
    """Copy of an item whose hrefs carry neither signatures nor user info."""

    def clean(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {k: clean(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [clean(v, key) for v in value]
        return unsigned_href(value) if key == "href" and isinstance(value, str) else value

    return cast(JSON, clean(item))


def fingerprint(item: Mapping[str, Any]) -> str:
    """32 hex digits that change when the item does: its JSON without links and signatures.

    What is written in two ways and means the same is the same: 12 and 12.0, a moment with and without fractions of a
    second, null and nothing. Servers and Parquet files write one item so and so.
    """
    content = {key: _meant(value) for key, value in unsigned(item).items() if key != "links"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _meant(value: Any) -> Any:
    """JSON in the one form that all ways to write it have in common."""
    if isinstance(value, Mapping):
        return {key: _meant(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_meant(one) for one in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC).isoformat()
        except (ValueError, OverflowError):
            return value
    return value


def updated(item: Mapping[str, Any]) -> datetime | None:
    """The source's own time of the item's last change, UTC."""
    try:
        return parse_time((item.get("properties") or {}).get("updated"), "updated")
    except InvalidItemError:
        return None


def parse_time(value: object, field: str) -> datetime | None:
    """UTC time of an RFC 3339 text; a date alone (STAC 0.x) is its midnight, a time without zone is UTC.

    Raises:
        InvalidItemError: names the field; the caller adds the item.
    """
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip().upper())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as err:
        raise InvalidItemError(f"properties.{field} is no date and time: {str(value)[:80]!r}") from err


def assets_of(item: Mapping[str, Any]) -> Iterator[tuple[str, JSON]]:
    """Key and JSON of each well-formed asset."""
    assets = item.get("assets")
    for key, asset in assets.items() if isinstance(assets, Mapping) else ():
        if isinstance(asset, dict) and isinstance(asset.get("href"), str):
            yield key, asset
