"""Hrefs and files that mean harm: each is refused by the name of a rule, and nothing that must not be is asked for."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stacchip_core import Storage
from stacchip_core.errors import HrefRefusedError, ReadError, StacchipError
from stacchip_core.sources.cog import RasterRef, open_raster
from stacchip_core.sources.gate import RULES
from tests.hostile_world import GRID, WHOLE, World, failures, indexed, refuses, scene, watching
from tests.range_server import Reply, part, serving
from tests.rasters import ramp, write_cog


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with watching(tmp_path, monkeypatch) as made:
        yield made


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
