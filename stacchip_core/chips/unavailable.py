"""Keys of a ChipSpec that nothing acts on yet: refused, so that none is silently ignored."""

from __future__ import annotations

from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import SpecError

# Take a key off when its behaviour is there; this module goes with the last one.
PIXELS_LATER = ("radiometry", "dtype", "fill", "mask")


def refuse_unavailable(spec: ChipSpec, *keys: str) -> None:
    """Refuse those of `keys` that are given and have no effect yet.

    Raises:
        SpecError: names the key.
    """
    for key in keys:
        if getattr(spec, key) != ChipSpec.model_fields[key].default:
            raise SpecError(f"chip spec {spec.name!r}: {key} is not available yet; leave it out")
