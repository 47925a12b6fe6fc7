"""All forms of shards by name: how each is written, read and named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from stacchip_core.chips.formats.geotiff import read_geotiff, write_geotiff
from stacchip_core.chips.formats.npz import read_npz, write_npz
from stacchip_core.chips.formats.safetensors import read_safetensors, write_safetensors
from stacchip_core.chips.formats.webdataset import read_webdataset, write_webdataset
from stacchip_core.chips.formats.zarr import read_zarr, write_zarr
from stacchip_core.chips.shards import Files, Shard
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.chips.stored import stored_sizes
from stacchip_core.errors import CorruptWarehouseError, StoreError
from stacchip_core.warehouse.store import Store

Writer = Callable[[Shard], Files]
Reader = Callable[[Store, str, Mapping[str, int]], Shard]  # the sizes of its files go with its key

WRITERS: dict[str, Writer] = {
    "zarr": write_zarr,
    "safetensors": write_safetensors,
    "webdataset": write_webdataset,
    "npz": write_npz,
    "geotiff": write_geotiff,
}
READERS: dict[str, Reader] = {
    "zarr": read_zarr,
    "safetensors": read_safetensors,
    "webdataset": read_webdataset,
    "npz": read_npz,
    "geotiff": read_geotiff,
}
SUFFIXES = {"zarr": ".zarr", "safetensors": ".safetensors", "webdataset": ".tar", "npz": ".npz", "geotiff": ""}
IN_ONE_ARRAY = frozenset({"npz", "geotiff"})  # all bands of a chip have one shape there


def writer_of(spec: ChipSpec) -> Writer:
    """What writes the shards of a spec, by its format and the options of that."""
    if spec.format == "npz" and spec.clay_v1_swap:
        return partial(write_npz, clay_v1_swap=True)
    if spec.format == "zarr" and not spec.compress:
        return partial(write_zarr, compress=False)
    if spec.format == "geotiff" and not spec.compress:
        return partial(write_geotiff, compress=False)
    return WRITERS[spec.format]


def shard_key(form: str, collection: str, name: str) -> str:
    """Key of a shard below its dataset; Clay's loader takes the folder of a cube for its platform."""
    folder = f"shards/{re.sub(r'[^A-Za-z0-9._-]', '-', collection)}" if form == "npz" else "shards"
    return f"{folder}/{name}{SUFFIXES[form]}"


def open_shard(store: Store, key: str, form: str, *, size: int | None = None) -> Shard:
    """Open a shard; with `size`, only if its files have that many bytes together.

    Raises:
        CorruptWarehouseError: files of it are missing or cut short.
        StoreError: storage failed; TransientStoreError where trying again may help.
    """
    sizes = stored_sizes(store, key)
    found = sum(sizes.values())
    if not sizes or (size is not None and found != size):
        raise CorruptWarehouseError(
            f"{store.root}: shard {key} is {found} bytes, the lock says {size}: files of it are missing or cut short"
        )
    with reading(store, key):
        return READERS[form](store, key, sizes)


@contextmanager
def reading(store: Store, key: str) -> Iterator[None]:
    """Translate what the libraries of the forms raise: storage has errors of its own, so it is damage of the shard."""
    try:
        yield
    except (StoreError, MemoryError):
        raise
    except Exception as err:
        what = " ".join(f"{type(err).__name__}: {err}".split())
        raise CorruptWarehouseError(f"{store.root}: shard {key} can't be read: {what}") from err
