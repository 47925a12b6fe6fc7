"""What an aircraft sees of the demo's land: tree crowns, houses, lanes and tractor tracks at half a metre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.demo.land import Cover, Image, Land, fractal_noise, lottery, scramble, smoothstep
from flows.demo.sensors import SPECTRA

BANDS = ("red", "green", "blue", "nir")
STREET_M = (110.0, 80.0)  # the blocks of `land`'s towns
# Reflectance in red, green, blue and nir of roofs (slate, tile, tin), tarmac and lawn.
ROOFS = np.array([[0.14, 0.14, 0.15, 0.15], [0.27, 0.17, 0.13, 0.28], [0.46, 0.46, 0.47, 0.44]], dtype=np.float32)
TARMAC = np.array([0.17, 0.17, 0.17, 0.19], dtype=np.float32)
LAWN = np.array([0.10, 0.13, 0.06, 0.34], dtype=np.float32)
CROWN = np.array([0.045, 0.070, 0.032, 0.30], dtype=np.float32)
SHADE = 0.42  # what remains of the light in a shadow


@dataclass(frozen=True, slots=True)
class Cells:
    """A lattice of cells, each of which may hold one thing; arrays (height, width).

    Attributes:
        number: random number of the cell a pixel lies in.
        dx, dy: metres from the cell's thing, whose place in the cell is random; along the lattice.
        home: row and column of that thing.
    """

    number: NDArray[np.uint32]
    dx: Image
    dy: Image
    home: tuple[NDArray[np.intp], NDArray[np.intp]]


def photograph(land: Land, cover: Cover, gsd_m: float, *, seed: int) -> NDArray[np.uint8]:
    """Bytes of red, green, blue and nir, toned like aerial photographs; shape (4, height, width)."""
    rng = np.random.default_rng(seed)
    spectra = np.array([SPECTRA[band] for band in BANDS], dtype=np.float32)
    ground = np.tensordot(spectra, cover.shares, axes=1) * cover.shade
    ground *= _tracks(land, gsd_m)
    shape = land.shade.shape
    light = np.ones(shape, dtype=np.float32)
    to_street = _to_street(shape, gsd_m)
    _pave(ground, land, to_street, gsd_m, rng)
    for layer in range(2):
        cells = _cells(shape, gsd_m, cell_m=27.0, free=0.25, seed=seed + layer)
        _build(ground, light, land, cells, to_street)
    for layer in range(4):
        cells = _cells(shape, gsd_m, cell_m=11.0, free=0.45, seed=seed + 10 + layer)
        _plant(ground, light, land, cells, to_street)
    ground *= light * (1 + 0.015 * rng.standard_normal(shape, dtype=np.float32))
    return np.asarray(255 * np.clip(ground / 0.45, 0.004, 1) ** 0.55, dtype=np.uint8)


def _tracks(land: Land, gsd_m: float) -> Image:
    """Brightness of rows and wheel tracks, along or across each field."""
    rows, cols = np.indices(land.shade.shape, dtype=np.float32) * np.float32(gsd_m)
    position = np.where(lottery(land.parcel, 41) < 0.5, rows, cols)
    rows_of_crop = 0.035 * np.sin(position * np.float32(2 * np.pi / 3.1))
    wheels = 0.13 * (np.abs(position % 21 - 10.5) < 0.5)
    is_field = (1 - land.built) * (1 - land.forest) * (1 - land.water) * (land.margin_m > 3)
    return np.asarray(1 + (rows_of_crop + wheels) * is_field, dtype=np.float32)


def _pave(ground: Image, land: Land, to_street: Image, gsd_m: float, rng: np.random.Generator) -> None:
    """Lay lawns, streets with pavements in towns, and one country lane, into `ground`."""
    in_town = land.built > 0.1
    ground[:, in_town] = LAWN[:, np.newaxis] * (1 + 0.12 * land.grain[in_town])
    is_paving = in_town & (to_street < 6) & ~((to_street > 4) & (to_street < 4.9))
    ground[:, is_paving] = TARMAC[:, np.newaxis] * np.where(to_street[is_paving] > 4.5, 1.9, 1.0)
    rows, cols = np.indices(land.shade.shape, dtype=np.float32) * np.float32(gsd_m)
    bend = 9 * fractal_noise(rows.shape, rng, slope=4.5)
    to_lane = np.abs(rows - rows.max() * rng.uniform(0.35, 0.65) - 0.08 * cols + bend)
    verge = (to_lane < 7) & (land.water < 0.5)
    ground[:, verge] = LAWN[:, np.newaxis] * np.float32(1.1)
    lane = to_lane < 3.2
    ground[:, lane] = TARMAC[:, np.newaxis] * np.where(to_lane[lane] < 0.35, 1.5, 1.15)


def _to_street(shape: tuple[int, int], gsd_m: float) -> Image:
    """Metres to the middle of the nearest street of a town's blocks."""
    rows, cols = np.indices(shape, dtype=np.float32) * np.float32(gsd_m)
    away = (np.minimum(x % step, step - x % step) for x, step in zip((rows, cols), STREET_M, strict=True))
    return np.asarray(np.minimum(*away), dtype=np.float32)


def _build(ground: Image, light: Image, land: Land, cells: Cells, to_street: Image) -> None:
    """Put houses with pitched roofs on the plots of towns, and a farm here and there."""
    chance = np.where(land.built > 0.1, 0.8, 0.004) * (land.forest < 0.5) * (land.water < 0.1)
    chance[to_street < 14] = 0
    is_plot = lottery(cells.number, 1) < chance[cells.home]
    half_x, half_y = (4 + 5 * lottery(cells.number, salt) for salt in (2, 3))
    reach = np.maximum(np.abs(cells.dx + 3) - half_x, np.abs(cells.dy + 3) - half_y)
    light[is_plot & (reach < 0)] *= SHADE
    is_roof = is_plot & (np.maximum(np.abs(cells.dx) - half_x, np.abs(cells.dy) - half_y) < 0)
    kind = (lottery(cells.number, 4) * 2.99).astype(np.intp)[is_roof]
    pitch = np.where(cells.dy[is_roof] > 0, 1.15, 0.8)  # the southern half faces the sun
    ground[:, is_roof] = ROOFS[kind].T * pitch
    light[is_roof] = 1


def _plant(ground: Image, light: Image, land: Land, cells: Cells, to_street: Image) -> None:
    """Plant one layer of trees: dense in woods, scattered in gardens and along the margins of fields."""
    density = np.where(land.margin_m < 5, 0.06, 0.001) + 0.09 * (land.built > 0.1)
    density = np.maximum(density, 0.85 * smoothstep(land.forest, 0.2, 0.7)) * (land.water < 0.5)
    density[to_street < 4] = 0
    radius = 2.2 + 2.8 * lottery(cells.number, 2)
    distance = np.hypot(cells.dx, cells.dy) * (1 + 0.12 * land.grain)
    is_near = lottery(cells.number, 1) < density[cells.home]
    light[is_near & (np.hypot(cells.dx + 3.2, cells.dy + 3.2) < radius)] *= SHADE
    is_crown = is_near & (distance < radius)
    rounding = 1 + 0.5 * (cells.dx + cells.dy) / radius  # lit from the south-east
    tint = 0.75 + 0.5 * lottery(cells.number, 3)
    tone = (np.clip(rounding, 0.4, 1.5) * tint * (1 + 0.12 * land.grain))[is_crown]
    ground[:, is_crown] = CROWN[:, np.newaxis] * tone
    light[is_crown] = 1


def _cells(shape: tuple[int, int], gsd_m: float, *, cell_m: float, free: float, seed: int) -> Cells:
    """A lattice of cells turned by a random angle, things up to `free` of a cell off the middle."""
    rng = np.random.default_rng(seed)
    turn = np.float32(rng.uniform(-0.12, 0.12))
    rows, cols = np.indices(shape, dtype=np.float32) * np.float32(gsd_m)
    u = (np.cos(turn) * cols + np.sin(turn) * rows) / cell_m + np.float32(rng.uniform(512, 513))
    v = (np.cos(turn) * rows - np.sin(turn) * cols) / cell_m + np.float32(rng.uniform(512, 513))
    number = scramble(np.floor(u).astype(np.uint32) * np.uint32(8192) + np.floor(v).astype(np.uint32), seed)
    away_u, away_v = (free * (2 * lottery(number, salt) - 1) / 2 for salt in (51, 52))
    dx = (u - np.floor(u) - 0.5 - away_u) * np.float32(cell_m)
    dy = (v - np.floor(v) - 0.5 - away_v) * np.float32(cell_m)
    home_row = (rows - np.sin(turn) * dx - np.cos(turn) * dy) / gsd_m
    home_col = (cols - np.cos(turn) * dx + np.sin(turn) * dy) / gsd_m
    home = (
        np.clip(home_row.astype(np.intp), 0, shape[0] - 1),
        np.clip(home_col.astype(np.intp), 0, shape[1] - 1),
    )
    return Cells(number, np.asarray(dx, dtype=np.float32), np.asarray(dy, dtype=np.float32), home)
