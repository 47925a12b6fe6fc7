"""Contact sheets: places, stretch and nodata, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stacchip_core.chips.preview import SheetStyle, contact_sheet
from stacchip_core.sources.cog import encode_png

Pixels = NDArray[np.float64]
STYLE = SheetStyle(chip_px=16, columns=3, gap_px=2)


def grey(value: float, side: int = 16, bands: int = 1) -> Pixels:
    return np.full((bands, side, side), value)


def picture(sheet: NDArray[np.uint8], place: int, style: SheetStyle = STYLE) -> NDArray[np.uint8]:
    """One chip's part of a sheet, shape (3, side, side)."""
    row, column = divmod(place, style.columns or 1)
    top, left = (style.gap_px + (style.chip_px + style.gap_px) * along for along in (row, column))
    return sheet[:, top : top + style.chip_px, left : left + style.chip_px]


def test_chips_lie_in_rows_with_gaps_between() -> None:
    sheet = contact_sheet([grey(n) for n in range(5)], style=STYLE)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3, 2 * 18 + 2, 3 * 18 + 2)
    background = sheet[:, :1, :1]
    assert (sheet[:, :, 18:20] == background).all()
    assert (sheet[:, 18:20] == background).all()
    assert (picture(sheet, 5) == background).all()  # the place after the last
    shades = [int(picture(sheet, place)[0, 0, 0]) for place in range(5)]
    assert shades == sorted(shades)
    assert shades[0] == 0
    assert shades[-1] == 255


def test_all_chips_are_stretched_alike() -> None:
    ramp = np.linspace(0, 1000, 256).reshape(1, 16, 16)
    sheet = contact_sheet([ramp, ramp[:, ::-1], grey(400)], style=STYLE)
    assert np.array_equal(picture(sheet, 0), picture(sheet, 1)[:, ::-1])
    nearest = np.abs(ramp[0] - 400).argmin()
    assert abs(int(picture(sheet, 2)[0, 0, 0]) - int(picture(sheet, 0)[0].flat[nearest])) <= 2


def test_a_few_extreme_pixels_do_not_darken_the_sheet() -> None:
    ramp = np.linspace(0, 1000, 256).reshape(1, 16, 16)
    spiked = ramp.copy()
    spiked[0, 0, :3] = 60_000
    plain, odd = (contact_sheet([chip], style=STYLE) for chip in (ramp, spiked))
    assert abs(plain.astype(int)[:, 4:].mean() - odd.astype(int)[:, 4:].mean()) < 6


@pytest.mark.parametrize("nodata", [np.nan, -32768.0])
def test_nodata_is_shown_as_such_and_left_out_of_the_stretch(nodata: float) -> None:
    ramp = np.linspace(0, 1000, 256).reshape(1, 16, 16)
    holed = ramp.copy()
    holed[:, :8, :8] = nodata
    valid = holed[0] != nodata
    whole, cut = contact_sheet([ramp], style=STYLE), contact_sheet([holed], valid=[valid], style=STYLE)
    hole = picture(cut, 0)[:, :8, :8]
    assert len(np.unique(hole.reshape(3, -1), axis=1).T) == 1
    assert len(set(hole[:, 0, 0].tolist())) > 1  # a tint, which no grey picture has
    rest = np.abs(picture(cut, 0)[:, 8:].astype(int) - picture(whole, 0)[:, 8:].astype(int))
    assert rest.max() < 16


def test_colours_keep_their_bands() -> None:
    red = np.zeros((3, 16, 16))
    red[0, :, 8:] = 100
    red[1, 8:] = 100
    sheet = picture(contact_sheet([red], style=STYLE), 0)
    assert sheet[0, 0, 15] == 255
    assert sheet[0, 0, 0] == 0
    assert sheet[1, 15, 0] == 255
    assert sheet[2].max() == 0


def test_larger_chips_are_averaged_and_smaller_ones_repeated() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(100, 50, (1, 64, 64))
    bright = noise + 1000
    sheet = contact_sheet([noise, bright], style=STYLE)
    assert picture(sheet, 0).std() < 20
    small = np.kron(np.array([[0.0, 1.0], [2.0, 3.0]]), np.ones((4, 4)))[None]
    repeated = picture(contact_sheet([small], style=STYLE), 0)[0]
    assert np.array_equal(repeated, np.kron(repeated[::8, ::8], np.ones((8, 8))))


def test_averages_take_valid_pixels_alone() -> None:
    chip = np.full((1, 64, 64), 500.0)
    chip[:, ::2, ::4] = 0.0  # an eighth of each block is nodata
    sheet = contact_sheet(
        [chip, grey(0, 64), grey(500, 64)], valid=[chip[0] > 0, *[np.ones((64, 64), bool)] * 2], style=STYLE
    )
    assert np.array_equal(picture(sheet, 0), picture(sheet, 2))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_any_type_gives_a_png(dtype: str) -> None:
    chips = [np.random.default_rng(n).integers(0, 120, (3, 20, 20)).astype(dtype) for n in range(7)]
    png = encode_png(contact_sheet(chips))
    assert png.startswith(b"\x89PNG")


def test_a_sheet_without_a_valid_pixel_is_still_a_sheet() -> None:
    sheet = contact_sheet([grey(np.nan, bands=3)] * 2, style=STYLE)
    assert len(np.unique(picture(sheet, 0).reshape(3, -1), axis=1).T) == 1


@pytest.mark.parametrize("chips", [[], [grey(1, bands=2)], [grey(1), grey(1, bands=3)]])
def test_what_makes_no_sheet_is_refused(chips: list[Pixels]) -> None:
    with pytest.raises(ValueError, match=r"takes chips of one band or of three, found"):
        contact_sheet(chips)
