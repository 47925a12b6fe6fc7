"""Keep an always current index of every chip that could be cut from STAC collections, and cut chips from it.

Names are loaded when first used, so that `import stacchip_core` costs milliseconds and nobody pays for rasters
or tables they don't touch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from stacchip_core.errors import (
    BandNotFoundError,
    ChipNotFoundError,
    CommitConflictError,
    CommitUnknownError,
    CorruptWarehouseError,
    FailureBudgetError,
    HrefRefusedError,
    IncompleteError,
    InputError,
    InvalidItemError,
    LookupFailedError,
    ObjectExistsError,
    ObjectNotFoundError,
    ProfileError,
    ProfileNotFoundError,
    ReadError,
    SpecError,
    StacchipError,
    StoreError,
    TransientError,
    TransientReadError,
    TransientStoreError,
    UnsafeStoreError,
    UnsupportedGridError,
    VersionNotFoundError,
)

if TYPE_CHECKING:
    from stacchip_core.chips.chipper import Chipper
    from stacchip_core.chips.dataset import Dataset, materialize
    from stacchip_core.chips.plan import plan
    from stacchip_core.chips.selection import select
    from stacchip_core.chips.spec import ChipSpec
    from stacchip_core.chips.stream import stream
    from stacchip_core.index.chip_index import ChipIndex
    from stacchip_core.index.indexer import Indexer, IndexSettings
    from stacchip_core.sources.access import Storage
    from stacchip_core.sources.profiles import CollectionProfile
    from stacchip_core.warehouse.budget import FailureBudget
    from stacchip_core.warehouse.mirror import mirror
    from stacchip_core.warehouse.version import IndexVersion
    from stacchip_core.warehouse.warehouse import Warehouse

_MODULES = {
    "ChipIndex": "index.chip_index",
    "ChipSpec": "chips.spec",
    "Chipper": "chips.chipper",
    "CollectionProfile": "sources.profiles",
    "Dataset": "chips.dataset",
    "FailureBudget": "warehouse.budget",
    "IndexSettings": "index.indexer",
    "IndexVersion": "warehouse.version",
    "Indexer": "index.indexer",
    "Storage": "sources.access",
    "Warehouse": "warehouse.warehouse",
    "materialize": "chips.dataset",
    "mirror": "warehouse.mirror",
    "plan": "chips.plan",
    "select": "chips.selection",
    "stream": "chips.stream",
}

__all__ = [
    "BandNotFoundError",
    "ChipIndex",
    "ChipNotFoundError",
    "ChipSpec",
    "Chipper",
    "CollectionProfile",
    "CommitConflictError",
    "CommitUnknownError",
    "CorruptWarehouseError",
    "Dataset",
    "FailureBudget",
    "FailureBudgetError",
    "HrefRefusedError",
    "IncompleteError",
    "IndexSettings",
    "IndexVersion",
    "Indexer",
    "InputError",
    "InvalidItemError",
    "LookupFailedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "ProfileError",
    "ProfileNotFoundError",
    "ReadError",
    "SpecError",
    "StacchipError",
    "Storage",
    "StoreError",
    "TransientError",
    "TransientReadError",
    "TransientStoreError",
    "UnsafeStoreError",
    "UnsupportedGridError",
    "VersionNotFoundError",
    "Warehouse",
    "materialize",
    "mirror",
    "plan",
    "select",
    "stream",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name == "__version__":
        return version("stacchip-core")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
