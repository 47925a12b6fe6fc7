"""Real scenes and items that lie beside the repository; tests that need them skip where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("STACCHIP_SHARED_DATA", REPO.parent / "shared" / "data"))
ITEMS = SHARED / "items"
RASTERS = SHARED / "rasters"

needs_shared_data = pytest.mark.skipif(
    not ITEMS.is_dir(), reason=f"no real scenes at {SHARED}; STACCHIP_SHARED_DATA names another folder"
)
