"""Items that mean harm: each is refused by the name of a rule, or reads nothing but what it may.

What they lead to is watched: a server and a file that must see nothing, a resolver and a connector that answer for the
whole network, and every path that rasterio is handed.
"""

from __future__ import annotations

import ast
import ctypes
import json
import os
import re
import select
import socket
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from stacchip_core import ChipIndex, Chipper, Indexer, Storage, Warehouse
from stacchip_core.chips.spec import ChipSpec
from stacchip_core.errors import HrefRefusedError, InputError, ProfileError, ReadError, StacchipError
from stacchip_core.sources import remote
from stacchip_core.sources.cog import RasterRef, open_raster
from stacchip_core.sources.connections import Patience
from stacchip_core.sources.gate import RULES
from stacchip_core.sources.profiles import load_profile
from stacchip_core.sources.raster import Window
from stacchip_core.warehouse.budget import FailureBudget
from stacchip_core.warehouse.version import CollectionVersion
from tests.data import REPO
from tests.range_server import RangeServer, Reply, part, serving
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


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
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


HREFS = {
    "gdal-handler": [
        "/vsicurl/http://127.0.0.1:{port}/x.tif",
        "/VSICURL/http://127.0.0.1:{port}/x.tif",
        "vsicurl/http://127.0.0.1:{port}/x.tif",
        "//vsicurl/http://127.0.0.1:{port}/x.tif",
        "\\vsicurl/http://127.0.0.1:{port}/x.tif",
        "%2Fvsicurl%2Fhttp://127.0.0.1:{port}/x.tif",
        "/vsicurl_streaming/http://127.0.0.1:{port}/x.tif",
        "/vsicurl?url=http://127.0.0.1:{port}/&x=/vsi/",
        "/vsizip/{root}/x.zip/a.tif",
        "/vsisubfile/0_100,{secret}",
        "/vsis3/bucket/key.tif",
        "/vsimem/x.tif",
        "/vsistdin/",
        "/vsisparse/{secret}",
        "<VRTDataset rasterXSize='1' rasterYSize='1'><SourceFilename>{secret}</SourceFilename></VRTDataset>",
        "%3CVRTDataset%3E{secret}%3C/VRTDataset%3E",
        "<GDAL_WMS><Service><ServerUrl>http://127.0.0.1:{port}/</ServerUrl></Service></GDAL_WMS>",
    ],
    "driver-prefix": [
        "GTIFF_DIR:1:{secret}",
        "gtiff_dir:off:8:{secret}",
        'NETCDF:"{secret}":band',
        'HDF5:"{secret}"://band',
        "COG:{secret}",
        "DERIVED_SUBDATASET:LOGAMPLITUDE:{secret}",
        "WMS:http://127.0.0.1:{port}/",
        "WCS:http://127.0.0.1:{port}/",
        'ZARR:"/vsicurl/http://127.0.0.1:{port}/x"',
        'STACIT:"http://127.0.0.1:{port}/x"',
        "data:image/tiff;base64,SUkqAA==",
        "javascript:alert(1)",
        "http:x.tif",
        "http:\\\\127.0.0.1:{port}\\x.tif",
        "https:127.0.0.1:{port}/x.tif",
    ],
    "scheme": [
        "vrt://{secret}",
        "zip+file://{secret}!x.tif",
        "zip+https://127.0.0.1:{port}/x.zip!a.tif",
        "ftp://127.0.0.1:{port}/x.tif",
        "gopher://127.0.0.1:{port}/x",
        "VSICURL://127.0.0.1:{port}/x.tif",
        "hdfs://127.0.0.1:{port}/x.tif",
    ],
    "characters": [
        "",
        " x.tif",
        "x.tif\n",
        "x\n.tif",
        "x\0.tif",
        "http://127.0.0.1:{port}/x.tif\r\nHost: y",
        "x\u2028.tif",
        "x\u0085.tif",
        "file://{secret}%00.tif",
        "file://{root}/a%0A.tif",
    ],
    "local-root": [
        "{secret}",
        "/etc/hostname",
        "file://{secret}",
        "FILE://{secret}",
        "file:{secret}",
        "file://localhost{secret}",
        "file://elsewhere{secret}",
        "file:///vsicurl/http://127.0.0.1:{port}/x.tif",
        "../secret.tif",
        "a/../../secret.tif",
        "link.tif",
        "folder/secret.tif",
        "{root}/../secret.tif",
        "/proc/self/environ",
        "//127.0.0.1:{port}/x.tif",
    ],
    "host-spelling": [
        "http://2130706433:{port}/x.tif",
        "http://0x7f000001:{port}/x.tif",
        "http://0x7f.0x0.0x0.0x1:{port}/x.tif",
        "http://0177.0.0.1:{port}/x.tif",
        "http://127.1:{port}/x.tif",
        "http://127.0.0.1.:{port}/x.tif",
        "http://0:{port}/x.tif",
        "http://2852039166/latest/meta-data/x.tif",
        "http://169.254.43518/x.tif",
        "http://１２７.0.0.1:{port}/x.tif",
        "http://①②⑦.0.0.1:{port}/x.tif",
        "http://127。0。0。1:{port}/x.tif",
        "http://%31%32%37.0.0.1:{port}/x.tif",
        "http://[fe80::1%25eth0]/x.tif",
        "http:///x.tif",
        "http://a..b/x.tif",
        "http://-a.example/x.tif",
        "http://a b.example/x.tif",
        "http://public.example:99999/x.tif",
        "http://[::1/x.tif",
    ],
    "private-address": [
        "http://127.0.0.1:{port}/x.tif",
        "HTTP://127.0.0.1:{port}/x.tif",
        "https://127.0.0.1:{port}/x.tif",
        "http://127.0.0.2:{port}/x.tif",
        "http://[::1]:{port}/x.tif",
        "http://[::ffff:127.0.0.1]:{port}/x.tif",
        "http://[::ffff:7f00:1]:{port}/x.tif",
        "http://localhost:{port}/x.tif",
        "http://LocalHost.:{port}/x.tif",
        "http://user:word@127.0.0.1:{port}/x.tif",
        "http://public.example@127.0.0.1:{port}/x.tif",
        "http://10.0.0.5/x.tif",
        "http://172.16.0.1/x.tif",
        "http://192.168.1.1/x.tif",
        "http://100.100.100.200/x.tif",
        "http://[fd00:ec2::254]/x.tif",
        "http://inside.example/x.tif",
        "http://both.example/x.tif",
        "http://[64:ff9b::7f00:1]/x.tif",
        "http://[2002:7f00:1::]/x.tif",
    ],
    "special-address": [
        "http://169.254.169.254/latest/meta-data/x.tif",
        "http://[::ffff:169.254.169.254]/x.tif",
        "http://[fe80::1]/x.tif",
        "http://[64:ff9b::a9fe:a9fe]/x.tif",
        "http://[2002:a9fe:a9fe::]/x.tif",
        "http://metadata.example/x.tif",
        "http://0.0.0.0:{port}/x.tif",
        "http://[::]:{port}/x.tif",
        "http://224.0.0.1/x.tif",
        "http://[ff02::1]/x.tif",
        "http://240.0.0.1/x.tif",
        "http://255.255.255.255/x.tif",
    ],
    "bucket-name": [
        "s3:///x.tif",
        "s3://bucket:80/x.tif",
        "s3://buc%2Fket/x.tif",
        "s3://../x.tif",
        "s3://bucket/../other/x.tif",
        "gs://bucket/a/%2e%2e/%2E%2E/other/x.tif",
        "az://container/..%5cother/x.tif",
        "s3://[::1]/x.tif",
    ],
}


def test_hrefs_that_mean_harm_are_refused_by_rule_and_item(world: World, tmp_path: Path) -> None:
    world.names = {
        "inside.example": ["10.1.2.3"],
        "both.example": ["93.184.216.34", "127.0.0.1"],
        "metadata.example": ["169.254.169.254"],
    }
    (world.root / "link.tif").symlink_to(world.secret)
    (world.root / "folder").symlink_to(tmp_path, target_is_directory=True)
    items, rules = [], {}
    for rule, hrefs in HREFS.items():
        for number, text in enumerate(hrefs):
            item = scene(world, f"{rule}-{number}")
            item["assets"]["image"]["href"] = world.fill(text)
            items.append(item)
            rules[item["id"]] = rule
    good = scene(world, "good")
    write_cog(world.root / "good.tif", np.ones((4, *GRID.shape), np.uint8), GRID)
    good["assets"]["image"]["href"] = "good.tif"
    found = indexed(world, tmp_path, [*items, good])
    assert found.count() == 4, "the good one"
    reasons = failures(found)
    assert reasons.keys() == rules.keys()
    wrong = {id_: reasons[id_] for id_, rule in rules.items() if not refuses(reasons[id_], id_, rule)}
    assert wrong == {}
    assert set(HREFS) <= RULES.keys()


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


FILES = {
    "vrt.tif": b"<VRTDataset rasterXSize='200' rasterYSize='200'><VRTRasterBand dataType='Byte' band='1'><SimpleSource>"
    b"<SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    "wms.tif": b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:{port}/</ServerUrl></Service></GDAL_WMS>",
    "page.tif": b"<!DOCTYPE html><html>please sign in</html>",
    "text.tif": b"hello",
    "zip.tif": b"PK\x03\x04" + bytes(100),
    "hdf.tif": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "jp2.tif": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
}


def test_files_that_are_no_geotiff_are_not_handed_to_gdal(world: World) -> None:
    for name, text in FILES.items():
        (world.root / name).write_bytes(world.fill(text.decode("latin-1")).encode("latin-1"))
    os.mkfifo(world.root / "pipe.tif")
    (world.root / "folder.tif").mkdir()
    with serving(lambda asked: part((world.root / asked.path.lstrip("/")).read_bytes(), asked)) as server:
        refs = [RasterRef(name, "scene-1", "red", local_roots=(str(world.root),)) for name in (*FILES, "pipe.tif")]
        refs.append(replace(refs[0], href="folder.tif"))
        storage = Storage(hosts=("127.0.0.1",))
        refs += [RasterRef(f"{server.url}/{name}", "scene-1", "red", storage=storage) for name in FILES]
        for ref in refs:
            with pytest.raises(ReadError, match=r"item scene-1: asset 'red' \(.*\(rule: file-format\)"):
                open_raster(ref)
    assert world.opened == []


@pytest.mark.parametrize(
    ("location", "rule"),
    [
        ("http://169.254.169.254/latest/meta-data/", "special-address"),
        ("http://10.0.0.5/x.tif", "private-address"),
        ("http://127.0.0.1:{port}/x.tif", "private-address"),
        ("http://localhost:{port}/x.tif", "redirect"),
        ("//127.0.0.1:{port}/x.tif", "private-address"),
        ("http://public.example/x.tif", "redirect"),
        ("http://2130706433:{port}/x.tif", "host-spelling"),
        ("file://{secret}", "scheme"),
        ("/vsicurl/http://127.0.0.1:{port}/x.tif", None),
        ("gopher://127.0.0.1:{port}/", "scheme"),
        ("http://u:p@127.0.0.1:{port}/", "userinfo"),
        ("", None),
    ],
)
def test_redirects_lead_to_named_hosts_or_nowhere(world: World, location: str, rule: str | None) -> None:
    world.names = {"public.example": ["93.184.216.34"]}
    with serving(lambda _: Reply(302, headers={"Location": world.fill(location)})) as server:
        ref = RasterRef(f"{server.url}/x.tif", "scene-1", "red", host=server.url.removeprefix("http://"))
        match = re.escape(f"(rule: {rule})") if rule else "redirects more than 5 times"
        with pytest.raises(StacchipError, match=rf"item scene-1: asset 'red' .*{match}"):
            open_raster(ref)


def test_a_redirect_to_a_named_host_is_followed(world: World) -> None:
    path = write_cog(world.root / "a.tif", ramp(GRID.shape), GRID)
    storage = Storage(hosts=("127.0.0.1",))
    with (
        serving(lambda asked: part(path.read_bytes(), asked)) as target,
        serving(lambda _: Reply(307, headers={"Location": f"{target.url}/a.tif"})) as server,
        open_raster(RasterRef(f"{server.url}/x.tif", "scene-1", "red", storage=storage)) as raster,
    ):
        np.testing.assert_array_equal(raster.read(WHOLE)[0], ramp(GRID.shape))


def test_a_name_that_is_bound_anew_after_it_was_looked_at_gains_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was looked at is the one connected to; a connection that lands elsewhere is dropped unused."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    went: list[Any] = []

    def connecting(address: Any, _timeout: float) -> socket.socket:
        went.append(address[0])
        return _landed_on("127.0.0.1", world.port)

    monkeypatch.setattr(socket, "create_connection", connecting)
    ref = RasterRef(f"http://rebind.example:{world.port}/x.tif", "scene-1", "red")
    with pytest.raises(HrefRefusedError, match=r"scene-1: .*rebind\.example \(127\.0\.0\.1\).*rule: private-address"):
        open_raster(ref)
    assert (asked, went) == (["rebind.example"], ["93.184.216.34"])


def _landed_on(host: str, port: str) -> socket.socket:
    sock = socket.socket()
    sock.connect((host, int(port)))
    return sock


IDS = [
    *("../../etc/x", "/abs/x", "a/b", "C:\\x", "CON", "NUL.tif", ".", "..", "%2e%2e%2f", "x" * 512, "-rf", "a b"),
    *("Case", "case", unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"), "😀", "a\u202eb"),
    *("<script>alert(1)</script>", "[x](http://127.0.0.1/)", "=1+1", "'; DROP TABLE items; --", "{{7*7}}", "$(id)"),
]
NO_IDS = ["", "x" * 513, "a\0b", "a\nb", "a\x7f", "\ud800"]


def test_ids_of_any_form_are_data_and_never_a_part_of_a_key(world: World, tmp_path: Path) -> None:
    write_cog(world.root / "good.tif", np.ones((4, *GRID.shape), np.uint8), GRID)
    items = [scene(world, name) for name in (*IDS, *NO_IDS)]
    for item in items:
        item["assets"]["image"]["href"] = "good.tif"
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    found = indexed(world, tmp_path, items)
    ids = found.items(["item_id", "op"]).to_pylist()
    assert sorted(row["item_id"] for row in ids if row["op"] != "failed") == sorted(IDS)
    assert found.count() == 4 * len(IDS)
    for reason in failures(found).values():
        assert "(rule: item-id)" in reason
    keys = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path not in before}
    assert all(re.fullmatch(r"warehouse/[a-z0-9_./-]+", key) for key in keys), keys
    assert not [key for key in keys for name in IDS if name in key and len(name) > 3]


def absurd() -> dict[str, tuple[str, dict[str, Any]]]:
    """Rule and fields (of the item, or its properties) of items that no scene has."""
    shape = {
        f"shape-{n}": ("grid-fields", {"properties": {"proj:shape": value}})
        for n, value in enumerate(
            [
                [10**9, 10**9],
                [-1, 5],
                [0, 0],
                [1.5, 2],
                [float("nan"), 1],
                ["1", "2"],
                [1, 2, 3],
                [float("inf")],
                {},
            ]
        )
    }
    transform = {
        f"transform-{n}": ("grid-fields", {"properties": {"proj:transform": value}})
        for n, value in enumerate(
            [[0] * 6, [float("inf")] * 6, [float("nan")] * 6, [1, 2], ["a"] * 6, [1, 0, 0, 0, 0, 0], [10**400] * 6]
        )
    }
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    ring = [[i / 10**6, 0.0] for i in range(150_000)]
    return {
        **shape,
        **transform,
        "deep": ("item-nesting", {"x": deep}),
        "many": ("item-size", {"assets": {str(n): {"href": "x.tif"} for n in range(2000)}}),
        "long": ("item-size", {"x": "y" * 5_000_000}),
        "ring": ("geometry-size", {"geometry": {"type": "Polygon", "coordinates": [ring]}}),
    }


def test_absurd_items_are_refused_by_rule_and_item(world: World, tmp_path: Path) -> None:
    items, rules = [], {}
    for name, (rule, fields) in absurd().items():
        item = scene(world, name)
        properties = {**item["properties"], **fields.get("properties", {})}
        items.append({**item, **fields, "properties": properties})
        rules[name] = rule
    reasons = failures(indexed(world, tmp_path, items))
    assert {id_: reasons.get(id_) for id_, rule in rules.items() if f"(rule: {rule})" not in reasons.get(id_, "")} == {}
    assert {id_: reason for id_, reason in reasons.items() if id_ not in reason} == {}


def bomb(path: Path, *, side: int, block: int, count: int = 1) -> None:
    """A few kilobytes that claim to be much more."""
    with rasterio.open(
        *(path, "w"),
        driver="GTiff",
        width=side,
        height=side,
        count=count,
        dtype="uint8",
        tiled=True,
        blockxsize=block,
        blockysize=block,
        compress="deflate",
        SPARSE_OK=True,
        BIGTIFF="YES",
        crs="EPSG:32632",
        transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_000_000),
    ):
        pass


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        ("raster-size", {"side": 400_000, "block": 16_384}),
        ("raster-size", {"side": 16, "block": 16, "count": 4097}),
        ("block-bytes", {"side": 29_984, "block": 29_984}),
    ],
)
def test_bombs_are_refused_before_a_block_is_read(world: World, rule: str, size: dict[str, int]) -> None:
    bomb(world.root / "bomb.tif", **size)
    content = (world.root / "bomb.tif").read_bytes()
    ref = RasterRef("bomb.tif", "scene-1", "red", local_roots=(str(world.root),))
    with serving(lambda asked: part(content, asked)) as server:
        far = RasterRef(f"{server.url}/b.tif", "scene-1", "red", storage=Storage(hosts=("127.0.0.1",)))
        for one in (ref, far):
            with pytest.raises(ReadError, match=rf"item scene-1: asset 'red' .*\(rule: {rule}\)"):
                open_raster(one)
        assert sum((asked.span or (0, 0))[1] - (asked.span or (0, 0))[0] for asked in server.asked) < 10**6


def test_an_index_that_was_tampered_with_opens_no_other_files(world: World, tmp_path: Path) -> None:
    item = naip_scene(world.root, grid=GRID)
    index = Indexer(item, chip_size=SIZE, local_roots=[world.root]).create_index()
    index.write(tmp_path / "index.parquet")
    read = ChipIndex.read(tmp_path / "index.parquet")
    ((key, good),) = read.scenes.items()
    for href, rule in (
        (str(world.secret), "local-root"),
        ("../secret.tif", "local-root"),
        ("/vsicurl/http://127.0.0.1/x.tif", "gdal-handler"),
        ("http://169.254.169.254/x.tif", "special-address"),
        (f"http://127.0.0.1:{world.port}/x.tif", "private-address"),
    ):
        evil = replace(good, assets=tuple(replace(asset, href=href) for asset in good.assets))
        chips = Chipper(replace(read, scenes={key: evil}), bands=["red"], local_roots=[world.root])
        with pytest.raises(HrefRefusedError, match=rf"item {good.item_id}: .*\(rule: {rule}\)"):
            chips[0]


def test_an_index_can_claim_no_metadata_server_for_its_own_host(world: World) -> None:
    ref = RasterRef("http://169.254.169.254/x.tif", "scene-1", "red", host="169.254.169.254:80")
    with pytest.raises(HrefRefusedError, match="rule: special-address"):
        open_raster(ref)


EVIL_YAML = "!!python/object/apply:os.system ['touch {path}']\n"


def test_tags_in_yaml_build_nothing(tmp_path: Path) -> None:
    text = EVIL_YAML.format(path=tmp_path / "ran")
    (tmp_path / "evil.yaml").write_text(text)
    with pytest.raises(ProfileError, match=r"evil\.yaml"):
        load_profile(tmp_path / "evil.yaml")
    with pytest.raises(InputError):
        ChipSpec.load(tmp_path / "evil.yaml")
    assert not (tmp_path / "ran").exists()


def test_nothing_of_ours_unpickles_or_builds_objects_from_text() -> None:
    """Arrays of objects in .npy files are pickles, and so refused by numpy unless it is told otherwise."""
    banned = {"pickle", "cPickle", "dill", "marshal", "shelve"}
    for path in [*(REPO / "stacchip_core").rglob("*.py"), *(REPO / "flows").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.split(".")[0] for alias in node.names}, path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.Attribute):
                assert node.attr not in (
                    "unsafe_load",
                    "full_load",
                    "UnsafeLoader",
                    "FullLoader",
                ), path


def test_every_rule_is_explained() -> None:
    text = (REPO / "docs" / "access.md").read_text(encoding="utf-8")
    assert [rule for rule in RULES if f"`{rule}`" not in text] == []
