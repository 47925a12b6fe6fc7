"""Where items that mean harm are read, and what they lead to is watched.

A server and a file must see nothing, a resolver and a connector answer for the whole network, and every path that
rasterio is handed is written down.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import rasterio

from stacchip_core import Warehouse
from stacchip_core.sources import remote
from stacchip_core.sources.connections import Patience
from stacchip_core.sources.raster import Window
from stacchip_core.warehouse.budget import FailureBudget
from stacchip_core.warehouse.version import CollectionVersion
from tests.range_server import RangeServer, part, serving
from tests.rasters import ramp, write_cog
from tests.scenes import Item, naip_scene, utm_grid

GRID = utm_grid(200, 1.0)
SIZE = 100
WHOLE = Window(0, 0, GRID.width, GRID.height)


class Watched:
    """A file's opens and reads, counted by the kernel."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(self._fd, os.fsencode(path), 0x1 | 0x20) >= 0  # IN_ACCESS | IN_OPEN

    def is_touched(self) -> bool:
        return bool(select.select([self._fd], [], [], 0.05)[0])

    def close(self) -> None:
        os.close(self._fd)


class World:
    """Where the scenes lie, what must not be touched, and what was tried all the same."""

    def __init__(self, folder: Path, canary: RangeServer) -> None:
        self.root = folder / "scenes"
        self.secret = write_cog(folder / "secret.tif", ramp(GRID.shape), GRID)
        self.canary = canary
        self.port = canary.url.rpartition(":")[2]
        self.text = ""
        self.names: dict[str, list[str]] = {}
        self.asked_names: list[str] = []
        self.connected: list[str] = []
        self.opened: list[str] = []

    def fill(self, text: str) -> str:
        return text.replace("{secret}", str(self.secret)).replace("{port}", self.port).replace("{root}", str(self.root))


@contextmanager
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world in a folder; at its end, nothing may have been touched that must not."""
    monkeypatch.setattr(remote, "PATIENCE", Patience(connect_s=2, silence_s=2, total_s=4, retries=0))
    with serving(lambda asked: part(b"II*\0 secret of the server", asked)) as canary:
        made = World(tmp_path, canary)
        made.root.mkdir()
        connect, open_ = socket.socket.connect, rasterio.open

        def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            made.asked_names.append(host)
            found = made.names.get(host.lower(), [host])
            if host.lower().rstrip(".") == "localhost":
                found = ["127.0.0.1"]
            family = {True: socket.AF_INET6, False: socket.AF_INET}
            return [(family[":" in one], socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

        def connecting(self: socket.socket, address: Any) -> None:
            if address[0] != "127.0.0.1":
                made.connected.append(str(address[0]))
                raise ConnectionRefusedError(f"no packet leaves for {address[0]}")
            connect(self, address)

        def opening(path: Any, *args: Any, **kwargs: Any) -> Any:
            made.opened.append(str(path))
            return open_(path, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(socket.socket, "connect", connecting)
        monkeypatch.setattr(rasterio, "open", opening)
        watched = Watched(made.secret)
        yield made
        assert canary.asked == [], "the canary server was asked"
        assert not watched.is_touched(), "the canary file was touched"
        assert made.connected == [], "a packet was sent"
        inside = (str(made.root), "ranges/")
        assert [path for path in made.opened if not path.startswith(inside)] == [], "GDAL was handed something else"
        watched.close()


def scene(world: World, item_id: str) -> Item:
    """An item of one asset, whose file the caller gives."""
    world.text = world.text or json.dumps(naip_scene(world.root / "first", grid=GRID))
    item: Item = json.loads(world.text)
    return {**item, "id": item_id}


def indexed(world: World, folder: Path, items: list[Item], **more: Any) -> CollectionVersion:
    warehouse = Warehouse(folder / "warehouse", create=True)
    warehouse.index_items(
        items, chip_size=SIZE, local_roots=[world.root], budget=FailureBudget(max_failed=10_000), **more
    )
    return warehouse.collection("naip")


def failures(found: CollectionVersion) -> dict[str, str]:
    return {row["item_id"]: row["reason"] for row in found.failures().to_pylist()}


def refuses(reason: str, item_id: str, rule: str) -> bool:
    return f"item {item_id}: " in reason and f"(rule: {rule})" in reason
