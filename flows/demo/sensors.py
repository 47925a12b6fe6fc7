"""What satellites see of the demo's land: reflectance under clouds and shadows, QA classes, radar power."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.demo.land import MATERIALS, Cover, Image, fractal_noise, smoothstep

# Surface reflectance of each material (order of MATERIALS) by band; typical values, read off library spectra.
SPECTRA = {
    "coastal": (0.07, 0.020, 0.08, 0.025, 0.014, 0.045, 0.12),
    "blue": (0.09, 0.025, 0.11, 0.035, 0.018, 0.048, 0.15),
    "green": (0.12, 0.060, 0.16, 0.075, 0.034, 0.055, 0.17),
    "red": (0.16, 0.028, 0.22, 0.055, 0.020, 0.042, 0.19),
    "rededge1": (0.18, 0.090, 0.25, 0.110, 0.055, 0.036, 0.20),
    "rededge2": (0.20, 0.300, 0.28, 0.230, 0.160, 0.024, 0.22),
    "rededge3": (0.22, 0.400, 0.30, 0.290, 0.210, 0.022, 0.23),
    "nir": (0.24, 0.440, 0.32, 0.320, 0.230, 0.020, 0.24),
    "nir08": (0.25, 0.450, 0.33, 0.330, 0.240, 0.018, 0.25),
    "nir09": (0.25, 0.450, 0.33, 0.330, 0.240, 0.015, 0.25),
    "swir16": (0.32, 0.200, 0.40, 0.230, 0.110, 0.010, 0.27),
    "swir22": (0.27, 0.090, 0.30, 0.130, 0.050, 0.008, 0.25),
}
# Cloud reflectance, and haze added over land at full thickness, fall towards the shortwave infrared.
CLOUD = {"swir16": 0.55, "swir22": 0.42}
HAZE = {"coastal": 0.05, "blue": 0.04, "green": 0.02, "red": 0.012}
# C-band gamma nought, linear power, by material; VH of water lies near the noise floor.
BACKSCATTER = {
    "vv": (0.055, 0.110, 0.050, 0.080, 0.160, 0.008, 0.550),
    "vh": (0.008, 0.025, 0.009, 0.015, 0.045, 0.0012, 0.080),
}
NODATA_POWER = np.float32(-32768)


@dataclass(frozen=True, slots=True)
class Sky:
    """What lies between land and sensor; arrays (height, width).

    Attributes:
        cloud: opacity, 0 to 1.
        shadow: share of sunlight kept from the ground by clouds.
        outside: True where the swath did not reach.
    """

    cloud: Image
    shadow: Image
    outside: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class View:
    """The land on one day, and the sky over it."""

    cover: Cover
    sky: Sky


def make_sky(shape: tuple[int, int], gsd_m: float, *, cloudy: float, corner: str | None, seed: int) -> Sky:
    """Cumulus over about `cloudy` of the scene with shadows to the north-west, and a wedge without data.

    Args:
        shape: (height, width).
        gsd_m: pixel size, which decides how far shadows fall.
        cloudy: share of pixels under cloud.
        corner: "left" or "right" for the side that the swath's edge cuts off, None for none.
        seed: the same sky for the same seed.
    """
    rng = np.random.default_rng(seed)
    puffs = fractal_noise(shape, rng, slope=3.0)
    edge = float(np.quantile(puffs, 1 - cloudy)) if cloudy else float(puffs.max()) + 1
    cloud = smoothstep(puffs, edge - 0.15, edge + 1.3)
    drop = round(900 / gsd_m)  # clouds 1,100 m up under a sun at 50°
    shadow = np.zeros(shape, dtype=np.float32)
    shadow[:-drop, :-drop] = cloud[drop:, drop:]
    rows, cols = np.indices(shape, dtype=np.float32) / np.float32(max(shape))
    outside = np.zeros(shape, dtype=np.bool_)
    if corner is not None:
        beyond = 0.22 - 0.3 * rows - (cols if corner == "left" else cols[:, ::-1])
        outside = beyond > 0
    return Sky(cloud, shadow * (1 - cloud), outside)


def pool(image: Image, ratio: int) -> Image:
    """Mean of every `ratio` x `ratio` pixels of the last two axes, which must be whole multiples."""
    if ratio == 1:
        return image
    *lead, height, width = image.shape
    blocks = image.reshape(*lead, height // ratio, ratio, width // ratio, ratio)
    return np.asarray(blocks.mean(axis=(-3, -1)), dtype=np.float32)


def coarser(view: View, ratio: int) -> View:
    """The view in pixels `ratio` times as large; a pixel half outside the swath is outside."""
    if ratio == 1:
        return view
    cover, sky = view.cover, view.sky
    shares, shade, grain = (pool(image, ratio) for image in (cover.shares, cover.shade, cover.grain))
    cloud, shadow = pool(sky.cloud, ratio), pool(sky.shadow, ratio)
    outside = pool(sky.outside.astype(np.float32), ratio) >= 0.5
    return View(Cover(shares, shade, grain), Sky(cloud, shadow, outside))


def reflectance(view: View, band: str) -> Image:
    """Surface reflectance of a band after atmospheric correction, clouds and all; (height, width)."""
    cover, sky = view.cover, view.sky
    spectrum = np.array(SPECTRA[band], dtype=np.float32)
    ground = np.tensordot(spectrum, cover.shares, axes=1) * cover.shade
    ground *= 1 - 0.66 * np.sqrt(sky.shadow)
    ground += np.float32(HAZE.get(band, 0.004)) * smoothstep(sky.cloud, 0.0, 0.5)
    billow = sky.cloud - np.roll(sky.cloud, (-7, -7), axis=(0, 1))  # sides towards the sun are brighter
    bright = CLOUD.get(band, 0.74) * np.clip(0.5 + 0.45 * sky.cloud + 0.7 * billow, 0.35, 1.25)
    return np.asarray(ground + (bright - ground) * np.sqrt(sky.cloud), dtype=np.float32)


def scene_classes(view: View) -> NDArray[np.uint8]:
    """Sentinel-2's scene classification (SCL) of what there is; (height, width)."""
    cover, sky = view.cover, view.sky
    shares = dict(zip(MATERIALS, cover.shares, strict=True))
    green = shares["crop"] + shares["grass"] + shares["forest"]
    classes = np.full(cover.shade.shape, 5, dtype=np.uint8)  # not vegetated
    classes[green > 0.45] = 4  # vegetation
    classes[(cover.shade < 0.55) & (green < 0.45)] = 7  # unclassified
    classes[shares["water"] > 0.5] = 6
    classes[sky.shadow > 0.2] = 3
    classes[sky.cloud > 0.04] = 10  # thin cirrus, or a cloud's veil
    classes[sky.cloud > 0.12] = 8  # cloud, medium probability
    classes[sky.cloud > 0.35] = 9  # cloud, high probability
    classes[sky.outside] = 0
    return classes


def qa_pixel(view: View) -> NDArray[np.uint16]:
    """Landsat's QA_PIXEL of what there is, with the confidence bits that go with each; (height, width)."""
    sky, water = view.sky, view.cover.shares[MATERIALS.index("water")]
    flags = np.full(water.shape, 21824, dtype=np.uint16)  # clear land
    flags[water > 0.5] = 21952
    flags[sky.shadow > 0.2] = 23888
    flags[sky.cloud > 0.04] = 21826  # dilated cloud over land
    flags[sky.cloud > 0.12] = 22280  # cloud
    flags[sky.outside] = 1  # fill
    return flags


def backscatter(view: View, polarization: str, *, seed: int) -> Image:
    """Terrain-flattened radar power with speckle of 4.4 looks, -32768 outside the swath; (height, width)."""
    cover = view.cover
    rng = np.random.default_rng(seed)
    mean = np.tensordot(np.array(BACKSCATTER[polarization], dtype=np.float32), cover.shares, axes=1)
    mean *= np.exp(0.25 * (cover.shade - 1) + 0.12 * cover.grain)
    built = cover.shares[MATERIALS.index("built")]
    corners = (rng.random(mean.shape, dtype=np.float32) < 0.04 * built) * rng.exponential(3.0)
    looks = np.float32(4.4)
    power = (mean + corners) * rng.standard_gamma(looks, mean.shape, dtype=np.float32) / looks
    return np.where(view.sky.outside, NODATA_POWER, shorten(power.astype(np.float32)))


def shorten(values: Image) -> Image:
    """Values with 8 bits of mantissa, 0.2 % exact: deflate can't shrink noise, so let there be less."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x4000)) & np.uint32(0xFFFF8000)).view(np.float32)
