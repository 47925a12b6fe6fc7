"""Keys that nothing acts on yet are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from stacchip_core import SpecError
from stacchip_core.chips.unavailable import (
    PIXELS_LATER,
    refuse_unavailable,
)
from tests.chip_rows import spec

LATER = PIXELS_LATER
GIVEN: dict[str, Any] = {
    "radiometry": "reflectance",
    "dtype": "float32",
    "fill": 0,
    "mask": True,
}


@pytest.mark.parametrize("key", LATER)
def test_a_key_without_effect_is_refused(key: str) -> None:
    with pytest.raises(SpecError, match=rf"chip spec 'fields': {key} is not available yet; leave it out"):
        refuse_unavailable(spec(**{key: GIVEN[key]}), *LATER)
    refuse_unavailable(spec(), *LATER)
