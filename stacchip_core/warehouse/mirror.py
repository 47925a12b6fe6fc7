"""Mirroring: an item's files copied to a place of one's own, and the item rewritten to the copies."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from stacchip_core.errors import InvalidItemError, ObjectNotFoundError, StacchipError, StoreError
from stacchip_core.index.indexer import IndexSettings
from stacchip_core.sources.access import Storage, as_roots, is_remote, resolve_href, unsigned_href
from stacchip_core.sources.catalog import discover
from stacchip_core.sources.cause import cause_of, cause_of_words
from stacchip_core.sources.item import StagedItem, assets_of, unsigned
from stacchip_core.sources.source import Source
from stacchip_core.warehouse.batch import ItemFailure
from stacchip_core.warehouse.copying import Copied, Version, copy_file, open_original
from stacchip_core.warehouse.intake import Found, Item, read_items
from stacchip_core.warehouse.store import Store, open_store

logger = logging.getLogger(__name__)

# Extensions of the fields that are added. Source: github.com/stac-extensions.
_EXTENSIONS = (
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/alternate-assets/v1.2.0/schema.json",
)
_SHA256 = "1220"  # what a multihash of that kind and length begins with. Source: github.com/multiformats/multicodec
_RECORD = "_copies.json"
_THREADS = 4

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Copy:
    """An asset's copy, as the record beside the item keeps it.

    Attributes:
        href: of the original, without signature.
        size, etag: of the original when it was copied.
        sha256: of its bytes; "" where the server copied them.
        name: of the copy, in the item's folder.
    """

    href: str
    size: int
    etag: str
    sha256: str
    name: str


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What mirroring did.

    Attributes:
        items: rewritten to their copies, for `Indexer` and `Warehouse.index_items`; of a local folder, with it among
            `local_roots`.
        copied, kept: files that were copied, and that were there already.
        size_bytes: of those copied.
        failures: items that could not be mirrored whole.
    """

    items: tuple[JSON, ...] = ()
    copied: int = 0
    kept: int = 0
    size_bytes: int = 0
    failures: tuple[ItemFailure, ...] = ()

    def __add__(self, other: Mirrored) -> Mirrored:
        """Both together."""
        return Mirrored(
            self.items + other.items,
            self.copied + other.copied,
            self.kept + other.kept,
            self.size_bytes + other.size_bytes,
            self.failures + other.failures,
        )


@dataclass(frozen=True, slots=True)
class Copying:
    """What all items of a mirror share.

    Attributes:
        store: where the copies go.
        assets: asset keys or band names to copy; none: all that the profile names.
        settings: profile and access to the originals.
    """

    store: Store
    assets: tuple[str, ...]
    settings: IndexSettings


def mirror(
    source: Source | Iterable[Item],
    destination: str | Path,
    *,
    assets: Sequence[str] = (),
    storage: Storage | None = None,
    destination_storage: Storage | None = None,
    **settings: Any,
) -> Mirrored:
    """Copy assets of items to a folder or bucket prefix, and rewrite the items to the copies.

    A file gets its name once it is whole. What is there and unchanged stays, so a run that was killed carries on. An
    item is done when its JSON is written beside its copies; one that fails is told, and the others go on.

    Args:
        source: a `Source`, or items as for `Warehouse.index_items`.
        destination: local path, or s3://bucket/prefix.
        assets: asset keys or band names; none: all assets that the profile names.
        storage: access to the originals.
        destination_storage: access to the destination.
        settings: profile, local_roots.

    Raises:
        InputError: the destination or a setting can't be used.
        StoreError, TransientStoreError: the destination could not be written.
    """
    roots = as_roots(settings.pop("local_roots", ()))
    chosen = IndexSettings.of(**settings, local_roots=roots, storage=storage or Storage())
    how = Copying(open_store(destination, destination_storage), tuple(assets), chosen)
    done = Mirrored()
    with ThreadPoolExecutor(_THREADS) as pool:
        for one in pool.map(lambda found: mirror_item(found, how), _found(source, roots)):
            done += one
    return done


def _found(source: Source | Iterable[Item], roots: tuple[str, ...]) -> Iterable[Found]:
    if isinstance(source, Source):
        return (Found(staged, (*roots, *source.roots)) for page in discover(source) for staged in page)
    return read_items(source, roots)


def mirror_item(found: Found, how: Copying) -> Mirrored:
    """Copy what is to be copied of one item; what is wrong with it comes back as data."""
    staged, item_id = found.staged, str(found.staged.item.get("id"))
    if staged.error is not None:
        cause = staged.cause or cause_of_words(staged.error)
        return Mirrored(failures=(ItemFailure(item_id, "discover", staged.error, cause),))
    own = replace(how, settings=how.settings.model_copy(update={"local_roots": found.roots}))
    try:
        return _mirrored(staged, own)
    except StoreError:  # of the destination: no other item would fare better
        raise
    except StacchipError as err:
        text = str(err)
        reason = text if item_id in text else f"item {item_id}: {text}"
        return Mirrored(failures=(ItemFailure(item_id, "read", reason, cause_of(err)),))


def _mirrored(staged: StagedItem, how: Copying) -> Mirrored:
    folder = folder_of(staged.item)
    chosen = chosen_assets(staged.item, how)
    record, done = _read_record(how.store, folder), Mirrored()
    for key, asset in chosen.items():
        copy = _copied(key, asset, staged, how, record.get(key))
        if copy is record.get(key):
            done += Mirrored(kept=1)
            continue
        record = {**record, key: copy}
        _write_json(how.store, f"{folder}/{_RECORD}", {name: asdict(one) for name, one in record.items()})
        done += Mirrored(copied=1, size_bytes=copy.size)
    copies = {key: record[key] for key in chosen}
    _write_json(how.store, f"{folder}/item.json", rewritten(staged, copies, "."))
    return done + Mirrored(items=(rewritten(staged, copies, f"{how.store.root}/{folder}"),))


def _copied(key: str, asset: JSON, staged: StagedItem, how: Copying, before: Copy | None) -> Copy:
    """The asset's copy: the one of before where it is of this version and still there, else a new one."""
    item_id, settings = staged.item["id"], how.settings
    try:
        href = resolve_href(asset["href"], staged.base, settings.local_roots)
        original = open_original(href, settings.storage, settings.local_roots, settings.storage.gate(staged.host))
        version, place = original.version(), unsigned_href(href)
        is_known = before is not None and (before.href, before.size, before.etag) == (place, version.size, version.etag)
        if before and is_known and _size(how.store, f"{folder_of(staged.item)}/{before.name}") == version.size:
            return before
        name = name_of(key, href)
        done = copy_file(original, how.store, f"{folder_of(staged.item)}/{name}", _sha256_of(asset))
    except StoreError:
        raise
    except StacchipError as err:
        raise type(err)(f"item {item_id}: asset {key!r}: {err}") from err
    return _copy(place, name, done)


def _copy(href: str, name: str, done: Copied) -> Copy:
    version: Version = done.version
    return Copy(href, version.size, version.etag, done.sha256, name)


def chosen_assets(item: Mapping[str, Any], how: Copying) -> dict[str, JSON]:
    """The assets to copy, by key.

    Raises:
        InvalidItemError: the item lacks one that was asked for; lists those it has.
    """
    there, profile = dict(assets_of(item)), how.settings.profile_of(item)
    bands = {
        name: key
        for band in profile.bands
        for key in (band.asset, *band.aliases)
        for name in (band.name,)
        if key in there
    }
    qa = [key for key in (profile.qa.asset, *profile.qa.aliases) if key in there]
    if not how.assets:
        return {key: there[key] for key in dict.fromkeys([*bands.values(), *qa])}
    missing = [name for name in how.assets if name not in there and name not in bands]
    if missing:
        raise InvalidItemError(
            f"item {item['id']}: no asset or band {missing[0]!r} to mirror; it has {', '.join([*there, *bands])}"
        )
    return {
        key: there[key]
        for key in dict.fromkeys(bands.get(name, name) if name not in there else name for name in how.assets)
    }


def rewritten(staged: StagedItem, copies: Mapping[str, Copy], folder: str) -> JSON:
    """The item with its copied assets in `folder`; all else stays, but for links and hrefs that lead nowhere then.

    A copied asset keeps a link to its original as its only alternate: whoever reads the copy never ends up there.
    """
    item = unsigned(staged.item)
    assets = {key: _asset(asset, copies.get(key), staged.base, folder) for key, asset in item["assets"].items()}
    links = [one for one in item.get("links") or [] if isinstance(one, dict) and is_remote(str(one.get("href")))]
    own = next(
        (one["href"] for one in links if one.get("rel") == "self"), staged.base if is_remote(staged.base) else ""
    )
    kept = [one for one in links if one.get("rel") not in ("self", "canonical")]
    extensions = [*item.get("stac_extensions", []), *_EXTENSIONS]
    return {
        **item,
        "stac_extensions": list(dict.fromkeys(extensions)),
        "links": [*([{"rel": "canonical", "href": own, "type": "application/geo+json"}] if own else []), *kept],
        "assets": {key: asset for key, asset in assets.items() if asset is not None},
    }


def _asset(asset: JSON, copy: Copy | None, base: str, folder: str) -> JSON | None:
    """An asset as the mirrored item has it; None: it was not copied, and its relative href leads nowhere from there."""
    if copy is None:
        href = resolve_href(asset["href"], base) if is_remote(base) else asset["href"]
        return {**asset, "href": href} if is_remote(href) else None
    checksum = {"file:checksum": _SHA256 + copy.sha256} if copy.sha256 else {}
    original = {"alternate": {"original": {"href": copy.href}}} if is_remote(copy.href) else {}
    kept = {name: value for name, value in asset.items() if name != "alternate"}
    return {**kept, "href": f"{folder}/{copy.name}", "file:size": copy.size, **checksum, **original}


def folder_of(item: Mapping[str, Any]) -> str:
    """Folder of an item's copies: readable, and never its raw id, which may hold anything."""
    names = str(item.get("collection") or "items"), str(item["id"])
    digest = hashlib.sha256("/".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{_safe(names[0])}/{_safe(names[1])}-{digest}"


def name_of(asset: str, href: str) -> str:
    """Name of an asset's copy; two assets whose keys are spelt alike get two names."""
    suffix = PurePosixPath(urlsplit(href).path).suffix.lower()
    is_plain = _safe(asset) == asset and suffix != ".json"  # item.json is the item's own
    digest = "" if is_plain else f"-{hashlib.sha256(asset.encode()).hexdigest()[:8]}"
    return f"{_safe(asset)}{digest}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else ''}"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:80] or "x"


def _sha256_of(asset: Mapping[str, Any]) -> str:
    """sha256 that an item gives for an asset; "" where it gives none, or another kind."""
    text = str(asset.get("file:checksum") or "").lower()
    return text.removeprefix(_SHA256) if re.fullmatch(rf"{_SHA256}[0-9a-f]{{64}}", text) else ""


def _size(store: Store, key: str) -> int | None:
    try:
        return store.size(key)
    except ObjectNotFoundError:
        return None


def _read_record(store: Store, folder: str) -> dict[str, Copy]:
    """What was copied so far; a record that can't be read is as none: all is copied again."""
    try:
        found = json.loads(store.read(f"{folder}/{_RECORD}"))
        return {key: Copy(**values) for key, values in found.items()}
    except ObjectNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as err:
        logger.warning("%s/%s/%s can't be read (%s): its files are copied again", store.root, folder, _RECORD, err)
        return {}


def _write_json(store: Store, key: str, value: object) -> None:
    store.write(key, json.dumps(value, indent=1).encode())
