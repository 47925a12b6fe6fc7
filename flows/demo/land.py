"""Made-up but lifelike land for the demo: relief, rivers, field systems, woods and towns through the year.

Land is described by shares of a few materials in every pixel, so that any sensor can look at it: optical ones
mix the materials' spectra, radar mixes their backscatter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

# Names of the materials, in the order of `Cover.shares`.
MATERIALS = ("soil", "crop", "straw", "grass", "forest", "water", "built")


@dataclass(frozen=True, slots=True)
class Style:
    """What kind of countryside: lengths in metres, shares 0 to 1.

    Attributes:
        field_m: length and width of a typical field.
        headings: directions of field systems, radians; one per region, drawn at random.
        road_m: distance between country roads, 0 for none.
        relief_m: height of its hills.
        wooded: share of the land under trees.
        towns: number of towns.
        greenest: day of the year when most crops stand green.
    """

    field_m: tuple[float, float]
    headings: tuple[float, ...]
    road_m: float
    relief_m: float
    wooded: float
    towns: int
    greenest: int


@dataclass(frozen=True, slots=True)
class Land:
    """What does not change with the season; all arrays are (height, width).

    Attributes:
        parcel: number of the field a pixel lies in.
        margin_m: distance to the field's edge.
        water, forest, built: shares.
        road: share of the pixel that is a country road.
        shade: factor of brightness by the slope towards the sun, around 1.
        grain: fine texture, mean 0, standard deviation 1.
    """

    parcel: NDArray[np.uint32]
    margin_m: Image
    water: Image
    forest: Image
    built: Image
    road: Image
    shade: Image
    grain: Image


@dataclass(frozen=True, slots=True)
class Cover:
    """The land on one day: share of each material (materials, height, width), its shading and texture."""

    shares: Image
    shade: Image
    grain: Image


def fractal_noise(shape: tuple[int, int], rng: np.random.Generator, *, slope: float) -> Image:
    """Noise with power falling as frequency ** -slope: 2 is rough rock, 3 clouds, 4 rolling hills.

    Shape (height, width), mean 0, standard deviation 1; it wraps around at the edges.
    """
    spectrum = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    along_y, along_x = (freq.astype(np.float32) for freq in (np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])))
    power = along_y[:, np.newaxis] ** 2 + along_x**2
    power[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * power ** np.float32(-slope / 4), s=shape)
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def smoothstep(values: Image, low: float, high: float) -> Image:
    """0 below `low`, 1 above `high`, a smooth ramp between."""
    t = np.clip((values - low) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def scramble(numbers: NDArray[np.uint32], salt: int) -> NDArray[np.uint32]:
    """Each number's own random 32 bits, by the finishing steps of MurmurHash3."""
    mixed = numbers ^ np.uint32(salt * 0x9E3779B1 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return np.asarray(mixed ^ (mixed >> np.uint32(16)), dtype=np.uint32)


def lottery(numbers: NDArray[np.uint32], salt: int) -> Image:
    """Each number's own random value, 0 to 1."""
    return np.asarray(scramble(numbers, salt) * np.float32(2**-32), dtype=np.float32)


def make_land(shape: tuple[int, int], gsd_m: float, style: Style, *, seed: int) -> Land:
    """Draw a countryside of `shape` (height, width) pixels of `gsd_m`; the same for the same seed."""
    rng = np.random.default_rng(seed)
    smooth = 0.0 if gsd_m > 5 else 1.2  # from the air, a kilometre of land has no ragged hills or shores
    relief = fractal_noise(shape, rng, slope=4.3 + smooth)
    relief += np.float32(0.06) * fractal_noise(shape, rng, slope=2.6 + smooth)
    hilly = smoothstep(fractal_noise(shape, rng, slope=5.0), -0.2, 1.2)
    grain = fractal_noise(shape, rng, slope=0.9)
    parcel, margin_m = _fields(shape, gsd_m, style, rng)
    water, bank = _river(shape, gsd_m, relief, rng)
    built = _towns(shape, gsd_m, style, rng) * (1 - water)
    forest = _woods(parcel, grain + 0.012 * style.relief_m * hilly, style, rng) + 0.8 * bank
    forest = np.clip(forest, 0, 1) * (1 - water - built)
    return Land(
        parcel=parcel,
        margin_m=margin_m,
        water=water,
        forest=np.asarray(forest, dtype=np.float32),
        built=np.asarray(built, dtype=np.float32),
        road=_roads(shape, gsd_m, style, rng) * (1 - water),
        shade=_hillshade(relief * (0.15 + hilly), style.relief_m, gsd_m) * (1 - water) + water,
        grain=grain,
    )


def cover_on(land: Land, style: Style, day_of_year: int, *, seed: int) -> Cover:
    """The land as it looks on a day: crops green up, ripen and are cut, each field in its own time."""
    kind, vigour = lottery(land.parcel, seed + 1), lottery(land.parcel, seed + 2)
    lead = (lottery(land.parcel, seed + 3) - 0.5) * 120  # days by which a field is ahead of or behind the others
    stage = (day_of_year - style.greenest + lead) / 55.0
    green = np.exp(-(stage**2)) * (0.55 + 0.45 * vigour)
    ripe = smoothstep(np.asarray(stage, dtype=np.float32), 0.6, 1.2)
    ripe *= 1 - smoothstep(np.asarray(stage, dtype=np.float32), 1.6, 2.0)
    is_meadow = (kind > 0.84) & (land.margin_m > 0)
    crop = np.where(is_meadow, 0.15, green * (1 + 0.12 * land.grain))
    straw = np.where(is_meadow, 0.1, (1 - green) * ripe)
    grass = np.where(is_meadow, 0.6 + 0.25 * vigour, 0.0) + np.float32(0.5) * (land.margin_m < 8)
    soil = np.clip(1 - crop - straw - grass, 0.02, None)
    open_land = np.clip(1 - land.water - land.forest - land.built, 0, 1)
    parts = [soil, crop, straw, grass]
    farmed = np.stack([np.clip(part, 0, None) for part in parts])
    farmed *= (open_land * (1 - land.road)) / farmed.sum(axis=0)
    fixed = np.stack(
        [land.forest * (1 - land.road), land.water, land.built + land.road * (1 - land.built - land.water)]
    )
    shares = np.concatenate([farmed, fixed * np.float32(1)]).astype(np.float32)
    patchy = fractal_noise(land.shade.shape, np.random.default_rng(seed + 5), slope=2.2)
    tone = 1 + 0.35 * (lottery(land.parcel, seed + 4) - 0.5) * open_land + 0.06 * patchy * (1 - land.water)
    tone += (0.02 + 0.10 * land.forest) * land.grain * (1 - land.water)
    return Cover(shares, np.asarray(land.shade * tone, dtype=np.float32), land.grain)


def _fields(
    shape: tuple[int, int], gsd_m: float, style: Style, rng: np.random.Generator
) -> tuple[NDArray[np.uint32], Image]:
    """Number of each pixel's field, and metres to its edge.

    Regions, each around a random point, have field systems of their own heading; in them, belts of fields lie
    side by side like bricks, every belt cut at widths of its own.
    """
    region = _regions(shape, count=3 * len(style.headings) if len(style.headings) > 1 else 1, rng=rng)
    heading = rng.permutation(np.resize(style.headings, region.max() + 1)).astype(np.float32)[region]
    rows, cols = np.indices(shape, dtype=np.float32) * np.float32(gsd_m)
    bend = fractal_noise(shape, rng, slope=4.5) * np.float32(0.12 * min(style.field_m))
    u = np.cos(heading) * cols + np.sin(heading) * rows + bend
    v = np.cos(heading) * rows - np.sin(heading) * cols + bend
    length, width = style.field_m
    belt = np.floor(v / length)
    belt_number = scramble((belt + 4096).astype(np.uint32) * np.uint32(64) + region.astype(np.uint32), 11)
    field_width = width * (0.6 + 1.1 * lottery(belt_number, 12))
    place = u / field_width + lottery(belt_number, 13)
    column = np.floor(place)
    parcel = scramble(belt_number ^ (column + 4096).astype(np.uint32), 14)
    across = np.minimum(place - column, 1 - (place - column)) * field_width
    along = np.minimum(v / length - belt, 1 - (v / length - belt)) * length
    return parcel, np.minimum(across, along).astype(np.float32)


def _regions(shape: tuple[int, int], *, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Number of the nearest of `count` random points, for each pixel."""
    rows, cols = np.indices(shape, dtype=np.float32)
    nearest = np.zeros(shape, dtype=np.intp)
    best = np.full(shape, np.inf, dtype=np.float32)
    for number, (y, x) in enumerate(rng.random((count, 2)) * shape):
        distance = (rows - np.float32(y)) ** 2 + (cols - np.float32(x)) ** 2
        nearest[distance < best] = number
        np.minimum(best, distance, out=best)
    return nearest


def _river(shape: tuple[int, int], gsd_m: float, relief: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Share of water, and of wooded bank: a meandering river, and a lake or two in the hollows."""
    rows, cols = np.indices(shape, dtype=np.float32) / np.float32(max(shape))
    meander = fractal_noise(shape, rng, slope=4.2 if gsd_m > 5 else 5.4)
    course = rows - 0.25 - 0.5 * rng.random() + 0.3 * (cols - 0.5) + 0.11 * meander
    slope_y, slope_x = np.gradient(course)
    metres = np.abs(course) / np.hypot(slope_y, slope_x).clip(1e-9) * gsd_m
    half_width = (45 + 25 * np.sin(9 * cols)) * min(1.0, (gsd_m / 5) ** 0.5)
    river = 1 - smoothstep(np.asarray(metres - half_width, dtype=np.float32), -gsd_m / 2, gsd_m / 2)
    bottom = float(np.quantile(relief, 0.006))
    lake = 1 - smoothstep(relief, bottom, bottom + 0.01)
    near_water = 1 - smoothstep(np.asarray(metres - half_width, dtype=np.float32), 60, 260)
    return np.maximum(river, lake), near_water * (fractal_noise(shape, rng, slope=2.4) > 0.4)


def _woods(parcel: NDArray[np.uint32], grain: Image, style: Style, rng: np.random.Generator) -> Image:
    """Share of trees: blobs with ragged edges, and whole fields left to the wood where they touch one."""
    blobs = fractal_noise(grain.shape, rng, slope=3.0) + 0.25 * grain
    edge = float(np.quantile(blobs, 1 - style.wooded))
    thicket = smoothstep(blobs, edge, edge + 0.1)
    whole_field = (lottery(parcel, 21) < 0.35) & (blobs > edge - 0.35)
    return np.maximum(thicket, whole_field.astype(np.float32))


def _towns(shape: tuple[int, int], gsd_m: float, style: Style, rng: np.random.Generator) -> Image:
    """Share of roofs and tarmac: towns thinning outwards, with blocks and streets."""
    rows, cols = np.indices(shape, dtype=np.float32)
    density = np.zeros(shape, dtype=np.float32)
    for y, x in rng.random((style.towns, 2)) * shape:
        radius = rng.uniform(500, 1500) * (1.0 if gsd_m > 5 else 0.5) / gsd_m
        density = np.maximum(density, np.exp(-np.hypot(rows - y, cols - x) / radius).astype(np.float32))
    ragged = density + 0.07 * fractal_noise(shape, rng, slope=2.0)
    block = np.floor(rows * gsd_m / 110) * 4096 + np.floor(cols * gsd_m / 80)
    roofs = 0.35 + 0.65 * lottery(block.astype(np.uint32), 31)
    is_street = ((rows * gsd_m) % 110 < max(gsd_m, 12)) | ((cols * gsd_m) % 80 < max(gsd_m, 12))
    paved = np.where(is_street & (gsd_m < 25), 0.85, roofs)
    return np.asarray(smoothstep(ragged, 0.30, 0.42) * paved, dtype=np.float32)


def _roads(shape: tuple[int, int], gsd_m: float, style: Style, rng: np.random.Generator) -> Image:
    """Share of country road: a grid of straight lines 12 m wide, some of them missing."""
    if not style.road_m:
        return np.zeros(shape, dtype=np.float32)
    share = min(1.0, 8 / gsd_m)
    road = np.zeros(shape, dtype=np.float32)
    step = style.road_m / gsd_m
    for axis, size in enumerate(shape):
        for at in np.arange(rng.uniform(0, step), size, step):
            if rng.random() < 0.8:
                road[(slice(None),) * axis + (int(at),)] = share
    return road


def _hillshade(relief: Image, height_m: float, gsd_m: float) -> Image:
    """Brightness by slope of hills `height_m` high, sun in the south-east at 50° above the horizon."""
    slope_y, slope_x = np.gradient(relief * np.float32(height_m / gsd_m))
    azimuth, height = math.radians(140), math.radians(50)
    towards = -slope_x * math.sin(azimuth) + slope_y * math.cos(azimuth)
    lit = (math.sin(height) + math.cos(height) * towards) / np.sqrt(1 + slope_x**2 + slope_y**2)
    return np.asarray(np.clip(lit / math.sin(height), 0.25, 1.6), dtype=np.float32)
