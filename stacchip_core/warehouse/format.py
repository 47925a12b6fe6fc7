"""The format file of a warehouse: what it is, and what reading it takes."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress

from stacchip_core.errors import CorruptWarehouseError, InputError, ObjectExistsError, ObjectNotFoundError
from stacchip_core.warehouse.entry import sealed
from stacchip_core.warehouse.store import Store

FORMAT_KEY = "_format.json"
FORMAT_NAME, FORMAT_VERSION = "stacchip-warehouse", 1
FEATURES: frozenset[str] = frozenset()  # what a warehouse may ask of its readers, beyond the format version


def make_format(store: Store) -> None:
    """Put the format file there, once; whoever is second finds the first one's."""
    if store.exists(FORMAT_KEY):
        return
    store.probe()
    format_file = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "features": [], "uuid": str(uuid.uuid4())}
    with suppress(ObjectExistsError):  # another process was faster, or an answer was lost: either is checked next
        store.create(FORMAT_KEY, sealed(format_file))


def check_format(store: Store) -> None:
    """Refuse what this release can't read.

    Raises:
        InputError: no warehouse, or one that a later release made.
        CorruptWarehouseError: the file is not as it was written.
    """
    where = f"{store.root}/{FORMAT_KEY}"
    try:
        body = store.read(FORMAT_KEY)
        found = json.loads(body)
    except ObjectNotFoundError as err:
        raise InputError(
            f"{store.root} is no warehouse: it has no {FORMAT_KEY}; Warehouse(root, create=True) makes one"
        ) from err
    except (ValueError, RecursionError) as err:
        raise CorruptWarehouseError(f"{where} is damaged: {err}") from err
    if not isinstance(found, dict) or found.get("format") != FORMAT_NAME:
        raise InputError(f"{where} is not that of a warehouse: expected format {FORMAT_NAME!r}")
    if found.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{where}: format version {found.get('version')!r}; this release reads {FORMAT_VERSION}: "
            "install a newer stacchip-core"
        )
    unknown = sorted(set(map(str, found.get("features") or ())) - FEATURES)
    if unknown:
        raise InputError(f"{where} asks for {', '.join(unknown)}: install a newer stacchip-core")
    if sealed(found) != body:
        raise CorruptWarehouseError(f"{where} was changed: it does not agree with its own checksum")
