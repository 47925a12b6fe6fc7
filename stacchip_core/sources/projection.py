"""The projection extension, v1 and v2, as one grid."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from pyproj.exceptions import CRSError

from stacchip_core.errors import UnsupportedGridError
from stacchip_core.sources.raster import MAX_PIXELS, MAX_SIDE, Grid, canonical_crs, is_on_earth, same_crs

_CRS_FIELDS = ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")
_HUGE = 1e300  # whole numbers of JSON may be larger than a float can be
# What each field may look like: PROJ would also take names (a slow search), PROJ strings and the files these name.
_CODE = re.compile(r"[A-Za-z][\w-]*:[\w.]+\Z")
_FORMS = {
    "proj:code": _CODE,
    "proj:epsg": _CODE,
    "proj:wkt2": re.compile(r"\s*[A-Z_0-9]+\s*\["),
    "proj:projjson": re.compile(r"\s*\{"),
}


def declared_grid(item_fields: Mapping[str, Any], asset_fields: Mapping[str, Any]) -> Grid | None:
    """Grid that the projection fields describe, or None where they say too little.

    Shape and transform are taken together from one level: the asset's where it has either, else the item's. The CRS is
    the asset's where it has one, else the item's.

    Raises:
        UnsupportedGridError: a field is malformed, or two contradict each other; the message names them, the caller
            adds the item.
    """
    has_own = any(asset_fields.get(f"proj:{name}") is not None for name in ("shape", "transform"))
    level = asset_fields if has_own else item_fields
    crs = _crs(asset_fields) or _crs(item_fields)
    shape, transform = _shape(level.get("proj:shape")), _transform(level.get("proj:transform"))
    if crs is None or shape is None or transform is None:
        return None
    grid = Grid(crs, transform, *shape)
    _check_bbox(grid, level.get("proj:bbox"))
    return grid


def _crs(fields: Mapping[str, Any]) -> str | None:
    codes = {name: _code(name, fields[name]) for name in _CRS_FIELDS[:2] if fields.get(name) is not None}
    if len(codes) == 2 and not same_crs(codes["proj:code"], codes["proj:epsg"]):
        raise UnsupportedGridError(f"proj:code {codes['proj:code']} and proj:epsg {codes['proj:epsg']} contradict")
    if codes:
        return next(iter(codes.values()))
    for name in _CRS_FIELDS[2:]:
        if fields.get(name) is not None:
            text = fields[name] if isinstance(fields[name], str) else json.dumps(fields[name])
            return _canonical(name, text)
    return None


def _code(name: str, value: object) -> str:
    if name == "proj:code":
        return _canonical(name, str(value))
    if not _is_number(value) or value != int(value):
        raise UnsupportedGridError(f"{name} {value!r} is not a whole number")
    return _canonical(name, f"EPSG:{int(value)}")


def _canonical(name: str, text: str) -> str:
    if not _FORMS[name].match(text):
        raise UnsupportedGridError(f"{name} {text[:80]!r} is no known CRS")
    try:
        crs = canonical_crs(text)
    except CRSError as err:
        raise UnsupportedGridError(f"{name} {text[:80]!r} is no known CRS") from err
    if not is_on_earth(crs):
        raise UnsupportedGridError(f"{name} {text[:80]!r} has no longitudes and latitudes on the Earth")
    return crs


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _shape(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = list(value) if isinstance(value, list | tuple) else []
    is_whole = len(sides) == 2 and all(_is_number(side) and side == int(side) for side in sides)
    if not is_whole or min(sides) < 1 or max(sides) > MAX_SIDE or sides[0] * sides[1] > MAX_PIXELS:
        text = f"proj:shape {str(value)[:80]} is not [rows, columns] of at least 1"
        raise UnsupportedGridError(text, rule="grid-fields")
    return int(sides[0]), int(sides[1])


def _transform(value: object) -> tuple[float, float, float, float, float, float] | None:
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple) else []
    is_affine = len(numbers) in (6, 9) and all(map(_is_number, numbers))
    if not is_affine or (len(numbers) == 9 and numbers[6:] != [0, 0, 1]):
        text = f"proj:transform {str(value)[:120]} is not 6 (or 9) finite numbers of an affine map"
        raise UnsupportedGridError(text, rule="grid-fields")
    a, b, c, d, e, f = (float(n) for n in numbers[:6])
    if a * e - b * d == 0:
        raise UnsupportedGridError(f"proj:transform {str(value)[:120]} has pixels without area", rule="grid-fields")
    return a, b, c, d, e, f


def _check_bbox(grid: Grid, bbox: object) -> None:
    """Refuse a proj:bbox that differs from shape and transform by more than a pixel."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return
    if not all(map(_is_number, bbox)):
        raise UnsupportedGridError(f"proj:bbox {str(bbox)[:80]} is not 4 finite numbers")
    found = grid.bounds
    bbox = [min(bbox[0], bbox[2]), min(bbox[1], bbox[3]), max(bbox[0], bbox[2]), max(bbox[1], bbox[3])]
    if max(abs(float(one) - other) for one, other in zip(bbox, found, strict=True)) > max(grid.pixel_size):
        a, b, c, d = (round(side, 3) for side in found)
        raise UnsupportedGridError(
            f"proj:shape {list(grid.shape)} and proj:transform reach over [{a}, {b}, {c}, {d}], proj:bbox says {bbox}"
            " (is proj:shape [rows, columns]?); grid='asset' takes the file's own grid"
        )
