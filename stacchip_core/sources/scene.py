"""What we keep of a STAC item: its grid, its time, and where its bands lie."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from stacchip_core.errors import BandNotFoundError, HrefRefusedError, InvalidItemError, UnsupportedGridError
from stacchip_core.sources.access import resolve_href, unsigned_href
from stacchip_core.sources.calibration import calibration_of
from stacchip_core.sources.generic import GENERIC, is_raster, profile_of
from stacchip_core.sources.identity import UNKNOWN, FileIdentity
from stacchip_core.sources.item import JSON, ItemSource, assets_of, is_name, parse_time
from stacchip_core.sources.profiles import Band, CollectionProfile
from stacchip_core.sources.projection import declared_grid
from stacchip_core.sources.raster import Grid, Ratio

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SceneAsset:
    """A file of an item that a profile's band names.

    Attributes:
        band: the band's name in the profile.
        key: the asset's key in the item.
        href: URL without signature, or path relative to a local root.
        layers: names of the layers to read, in file order; empty: all of them.
        scale, offset: physical value = stored value x scale + offset.
        rule: what gave these two, see `sources.calibration`; empty in scenes of releases that did not look.
        grid: as the item declares it for this asset, or None.
        size, etag: of the file when the item was indexed, as far as that was told; see `FileIdentity`.
    """

    band: str
    key: str
    href: str
    media_type: str | None = None
    layers: tuple[str, ...] = ()
    kind: str = "continuous"
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    rule: str = ""
    grid: Grid | None = None
    size: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A STAC item reduced to what indexing and cutting need.

    Attributes:
        datetime: UTC; the middle of start and end where the item has no datetime of its own.
        grid: the reference grid, or None until the reference asset's header has been read.
        reference: the band that gives the grid.
        properties: the profile's properties, in its order; None where the item lacks one.
        host: `host:port` that the item was read from; its files there may be read, whatever the host's address.
    """

    item_id: str
    collection: str
    datetime: dt.datetime
    start_datetime: dt.datetime | None
    end_datetime: dt.datetime | None
    profile: str
    grid: Grid | None
    reference: str
    assets: tuple[SceneAsset, ...]
    qa_asset: SceneAsset | None
    properties: Mapping[str, Any]
    host: str = ""

    @property
    def key(self) -> str:
        """`<collection>/<item_id>`, unique in a warehouse."""
        return f"{self.collection}/{self.item_id}"

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names that `asset` knows: bands and layers, in order."""
        return tuple(dict.fromkeys(name for asset in self.assets for name in (asset.band, *asset.layers)))

    def asset(self, name: str) -> SceneAsset:
        """The asset of a band, or the one-layer view of a layer.

        Raises:
            BandNotFoundError: lists what there is.
        """
        for asset in self.assets:
            if asset.band == name:
                return asset
        for asset in self.assets:
            if name in asset.layers:
                return asset
        raise BandNotFoundError(f"item {self.item_id}: no band {name!r}; there are {', '.join(self.band_names)}")

    def with_grid(self, grid: Grid) -> Scene:
        """The same scene on the grid read from its reference asset; what the item declares no longer counts."""
        return replace(
            self,
            grid=grid,
            assets=tuple(replace(asset, grid=None) for asset in self.assets),
            qa_asset=replace(self.qa_asset, grid=None) if self.qa_asset else None,
        )

    def with_files(self, found: Mapping[str, FileIdentity]) -> Scene:
        """The same scene with what is known of its files, by asset key."""

        def known(asset: SceneAsset) -> SceneAsset:
            identity = found.get(asset.key, UNKNOWN)
            return replace(asset, size=identity.size, etag=identity.etag)

        return replace(
            self, assets=tuple(map(known, self.assets)), qa_asset=known(self.qa_asset) if self.qa_asset else None
        )

    def ratio_of(self, asset: SceneAsset, found: Grid | None) -> Ratio | None:
        """How an asset's pixels divide the reference grid's; None where the two don't line up by a whole ratio.

        Args:
            asset: one of this scene's.
            found: the grid that its header gives.

        Raises:
            UnsupportedGridError: the header has no grid, or contradicts what the item declares; the message says both.
        """
        if self.grid is None or found is None:
            raise UnsupportedGridError(
                f"item {self.item_id}: asset {asset.key!r} has no CRS and transform in its header, so it can't be laid "
                "on the reference grid; geocode it first"
            )
        declared = self.grid if asset.band == self.reference else asset.grid
        if declared is not None and declared.ratio_of(found) != Ratio(1, 1):
            raise UnsupportedGridError(
                f"item {self.item_id}: asset {asset.key!r}: the item says {declared}, the file's header {found}; "
                "grid='asset' takes the grid from the files"
            )
        return self.grid.ratio_of(found)

    def to_json(self) -> str:
        """JSON text from which `from_json` makes an equal scene."""
        data = asdict(self, dict_factory=_without_unknown)
        for name in ("datetime", "start_datetime", "end_datetime"):
            data[name] = data[name].isoformat() if data[name] else None
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """Inverse of `to_json`."""
        data = json.loads(text)
        for name in ("datetime", "start_datetime", "end_datetime"):
            data[name] = dt.datetime.fromisoformat(data[name]) if data[name] else None
        data["grid"] = Grid.from_dict(data["grid"]) if data["grid"] else None
        data["assets"] = tuple(_asset_from_dict(asset) for asset in data["assets"])
        data["qa_asset"] = _asset_from_dict(data["qa_asset"]) if data["qa_asset"] else None
        return cls(**data)

    @classmethod
    def from_item(cls, source: ItemSource, profile: CollectionProfile | None = None, *, grid: str = "item") -> Scene:
        """Reduce an item to a scene.

        Args:
            source: the item, where it was read, and which local folders it may name.
            profile: None: the one that serves its collection, else a generic one made from its assets.
            grid: "item": from the projection fields (None where there are none, so that the header decides);
                "asset": always from the reference asset's header.

        Raises:
            InvalidItemError, UnsupportedGridError: name the item and the field.
        """
        item = source.item
        profile = profile or profile_of(item)
        if profile.name == GENERIC:
            names = ", ".join(profile.band_names)
            collection = item.get("collection")
            logger.info(
                "item %s: collection %r has no profile; using its assets %s, nodata from the header",
                *(item["id"], collection, names),
            )
        try:
            return _build(source, profile, grid)
        except (InvalidItemError, HrefRefusedError) as err:
            raise type(err)(f"item {item['id']}: {err}") from err


def _build(source: ItemSource, profile: CollectionProfile, grid: str) -> Scene:
    item = source.item
    properties = item["properties"]
    if not item.get("geometry"):
        raise InvalidItemError("geometry is null: an item without a place can't be indexed")
    if not isinstance(item.get("assets"), dict) or not item["assets"]:
        raise InvalidItemError("assets is empty: there is nothing to cut chips from")
    start, end = (
        parse_time(properties.get("start_datetime"), "start_datetime"),
        parse_time(properties.get("end_datetime"), "end_datetime"),
    )
    assets = tuple(_find_assets(source, profile))
    reference = _reference(assets, profile, item)
    declared = _declared_grid(item, reference, must_be_sound=grid == "item")
    return Scene(
        item_id=item["id"],
        collection=_collection(item) or profile.name,
        datetime=_moment(properties, start, end),
        start_datetime=start,
        end_datetime=end,
        profile=profile.name,
        grid=declared if grid == "item" else None,
        reference=reference.band,
        assets=tuple(replace(asset, grid=declared) if asset is reference else asset for asset in assets),
        qa_asset=_qa_asset(source, profile),
        properties={prop.name: _typed(properties.get(prop.name), prop.type) for prop in profile.properties},
        host=source.host,
    )


def _collection(item: JSON) -> str | None:
    collection = item.get("collection")
    if collection and not (isinstance(collection, str) and is_name(collection)):
        raise InvalidItemError(f"collection is a text of 1 to 512 bytes, found {str(collection)[:80]!r}")
    return collection


def _find_assets(source: ItemSource, profile: CollectionProfile) -> Iterable[SceneAsset]:
    item, found = source.item, set()
    for band in profile.bands:
        if band.name in found or not _applies(band, item):
            continue
        key = _first_key(item, (band.asset, *band.aliases))
        if key is not None:
            found.add(band.name)
            yield _scene_asset(source, key, band, profile)


def _applies(band: Band, item: JSON) -> bool:
    names = (str(item.get("collection") or ""), item["id"])
    return not band.when or any(fnmatchcase(name, pattern) for pattern in band.when for name in names)


def _first_key(item: JSON, keys: Iterable[str]) -> str | None:
    assets = dict(assets_of(item))
    return next((key for key in keys if key in assets and is_raster(assets[key])), None)


def _href(asset: JSON, alternates: Iterable[str]) -> str:
    """An asset's href: the first alternate that it has, else its own. Source: the alternate-assets extension."""
    others = asset.get("alternate")
    named = [others.get(name) for name in alternates] if isinstance(others, dict) else []
    hrefs = [other["href"] for other in named if isinstance(other, dict) and isinstance(other.get("href"), str)]
    return str(hrefs[0] if hrefs else asset["href"])


def _scene_asset(source: ItemSource, key: str, band: Band, profile: CollectionProfile) -> SceneAsset:
    asset = source.item["assets"][key]
    try:
        own_grid = declared_grid(source.item["properties"], asset) if asset.get("proj:shape") else None
    except UnsupportedGridError:
        own_grid = None  # the reference's is checked by itself, other assets' headers speak for them
    calibration = calibration_of(source.item, asset, band, profile)
    return SceneAsset(
        band=band.name,
        key=key,
        href=resolve_href(unsigned_href(_href(asset, profile.alternate)), source.base, source.local_roots),
        media_type=asset["type"] if isinstance(asset.get("type"), str) else None,
        layers=band.layers,
        kind=band.kind,
        nodata=band.nodata,
        scale=calibration.scale,
        offset=calibration.offset,
        rule=calibration.rule,
        grid=own_grid,
    )


def _qa_asset(source: ItemSource, profile: CollectionProfile) -> SceneAsset | None:
    rule = profile.qa
    if not rule.asset:
        return None
    key = _first_key(source.item, (rule.asset, *rule.aliases))
    if key is None:
        raise InvalidItemError(
            f"no QA asset {rule.asset!r} (nor {', '.join(rule.aliases) or 'an alias'}); assets are "
            f"{', '.join(source.item['assets'])}; a profile with qa: {{kind: nodata}} does without"
        )
    return _scene_asset(source, key, Band(name="qa", asset=key, kind="categorical"), profile)


def _reference(assets: tuple[SceneAsset, ...], profile: CollectionProfile, item: JSON) -> SceneAsset:
    by_band = {asset.band: asset for asset in assets}
    for name in profile.reference:
        if name in by_band:
            return by_band[name]
    keys = [key for band in profile.bands if band.name in profile.reference for key in (band.asset, *band.aliases)]
    others = [f"{key} ({asset.get('type') or 'no media type'})" for key, asset in assets_of(item) if key in keys]
    raise InvalidItemError(
        f"no GeoTIFF or JPEG 2000 for the reference band {' or '.join(map(repr, profile.reference))} of profile "
        f"{profile.name!r}; assets are {', '.join(others or item['assets'])}; a profile of your own can name another"
    )


def _declared_grid(item: JSON, reference: SceneAsset, *, must_be_sound: bool) -> Grid | None:
    try:
        return declared_grid(item["properties"], item["assets"][reference.key])
    except UnsupportedGridError as err:
        if must_be_sound:
            raise UnsupportedGridError(f"asset {reference.key!r}: {err}") from err
        logger.warning("item %s: asset %r: %s; the header is used", item["id"], reference.key, err)
        return None


def _moment(properties: JSON, start: dt.datetime | None, end: dt.datetime | None) -> dt.datetime:
    moment = parse_time(properties.get("datetime"), "datetime")
    if moment is not None:
        return moment
    if start is None or end is None:
        raise InvalidItemError("properties.datetime is null, and start_datetime and end_datetime are not both given")
    if end < start:
        raise InvalidItemError(f"properties.end_datetime {end} is before start_datetime {start}")
    return start + (end - start) / 2


def _typed(value: Any, kind: str) -> str | float | bool | None:
    if value is None:
        return None
    if kind == "boolean":
        return value if isinstance(value, bool) else None  # "false" is a text, and true
    if kind == "number":
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode()  # a lone surrogate has no place in a table


def _without_unknown(fields: list[tuple[str, Any]]) -> JSON:
    """Fields by name; what is not known of a file is left out, so that scenes of earlier releases stay as they are."""
    return {name: value for name, value in fields if value is not None or name not in ("size", "etag")}


def _asset_from_dict(data: JSON) -> SceneAsset:
    grid = Grid.from_dict(data["grid"]) if data["grid"] else None
    return SceneAsset(**{**data, "layers": tuple(data["layers"]), "grid": grid})
