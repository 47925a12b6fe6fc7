"""Signing at read time: tokens are asked for once, renewed before they end and after a refusal, and never kept."""

from __future__ import annotations

import datetime as dt
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from pydantic import ValidationError

from stacchip_core import Chipper, Indexer, InputError, ReadError, Storage, Warehouse
from stacchip_core.sources import remote, signing
from stacchip_core.sources.cog import RasterRef, open_raster
from stacchip_core.sources.connections import Patience
from stacchip_core.sources.raster import Window
from stacchip_core.sources.remote import Signed
from stacchip_core.sources.signing import sign_of, signer
from tests.range_server import Asked, RangeServer, Reply, part, serving
from tests.rasters import ramp, write_cog
from tests.scenes import naip_scene, utm_grid

CANARY = "CANARYTOKEN"
BLOB = "pictures.blob.core.windows.net"


class Cloud:
    """An Azure account with a private container, and its token server: one process, one port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.life_s = 3600.0
        self.made: dict[str, float] = {}
        self.asked_for: list[str] = []
        self.revoked: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        parts = urlsplit(asked.path)
        if parts.path.startswith("/token/"):
            return self._token(parts.path)
        token = next((text for text in self.made if text in parts.query), None)
        if token is None or token in self.revoked or time.time() > self.made[token]:
            return Reply(403, b"<Error>AuthenticationFailed</Error>")
        return part((self.folder / parts.path.removeprefix("/scenes/")).read_bytes(), asked)

    def _token(self, path: str) -> Reply:
        with self._lock:
            self.asked_for.append(path.removeprefix("/token/"))
            text = f"sv=2024&sp=rl&sig={CANARY}{len(self.made)}"
            self.made[text] = time.time() + self.life_s
        ends = dt.datetime.fromtimestamp(self.made[text], dt.UTC).isoformat()
        return Reply(200, json.dumps({"msft:expiry": ends, "token": text}).encode())


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path / "pixels")


@pytest.fixture
def server(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """The cloud on 127.0.0.1; its public name leads there too, and no name leads anywhere else."""

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        assert host in (BLOB, "127.0.0.1"), host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    signing._planetary_computer.cache_clear()
    monkeypatch.setattr(remote, "PATIENCE", Patience(silence_s=5, total_s=10, retries=0))
    with serving(cloud) as running:
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        yield running
        monkeypatch.undo()


def storage_of(server: RangeServer) -> Storage:
    return Storage(signing="planetary-computer", signing_url=f"{server.url}/token", hosts=(BLOB,))


def href_of(server: RangeServer, name: str = "a.tif") -> str:
    return f"http://{BLOB}:{urlsplit(server.url).port}/scenes/{name}"


def ref_of(server: RangeServer, name: str = "a.tif") -> RasterRef:
    return RasterRef(href_of(server, name), "scene-1", "red", storage=storage_of(server))


@pytest.fixture
def raster(cloud: Cloud) -> None:
    grid = utm_grid(600)
    noise = np.random.default_rng(0).integers(0, 60_000, grid.shape).astype(np.uint16)
    write_cog(cloud.folder / "a.tif", noise, grid)


@pytest.mark.usefixtures("raster")
def test_one_token_serves_all_threads_and_files_of_a_container(cloud: Cloud, server: RangeServer) -> None:
    write_cog(cloud.folder / "b.tif", ramp((300, 300)), utm_grid(300))

    def read(n: int) -> None:
        with open_raster(ref_of(server, "ab"[n % 2] + ".tif")) as opened:
            opened.read(Window(0, 0, 300, 300))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(16)))
    assert cloud.asked_for == ["pictures/scenes"]


@pytest.mark.usefixtures("raster")
def test_tokens_are_renewed_before_they_end(cloud: Cloud, server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.life_s = 100.0
    with open_raster(ref_of(server)) as opened:
        opened.read(Window(0, 0, 100, 100))
        assert len(cloud.asked_for) == 1
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 85)  # in the last fifth, not at the end
        opened.read(Window(300, 300, 100, 100))
    assert len(cloud.asked_for) == 2
    assert not [asked for asked in server.asked if "sig=" not in asked.path and "/token/" not in asked.path]


@pytest.mark.usefixtures("raster")
def test_a_refused_token_is_replaced_once(cloud: Cloud, server: RangeServer) -> None:
    with open_raster(ref_of(server)) as opened:
        cloud.revoked.update(cloud.made)
        opened.read(Window(0, 0, 100, 100))
        assert len(cloud.asked_for) == 2
        cloud.revoked.update(cloud.made)
        server.asked.clear()
        cloud.life_s = -1.0  # and new ones are no better
        with pytest.raises(
            ReadError, match=r"item scene-1: asset 'red' \(http://pictures\S+/a\.tif\): HTTP 403$"
        ) as got:
            opened.read(Window(300, 300, 100, 100))
    assert len([asked for asked in server.asked if "/token/" not in asked.path]) <= 2 * 4, "each range twice, no more"
    assert CANARY not in f"{got.value!r} {got.value.__cause__!r} {got.value.__context__!r}"


def test_a_token_server_that_fails_is_named_and_shows_nothing(cloud: Cloud, server: RangeServer) -> None:
    server.answer = lambda _: Reply(200, f'{{"token": "sig={CANARY}"}}'.encode())
    with pytest.raises(
        ReadError, match=r"token server's answer for pictures/scenes is no token \(KeyError\)"
    ) as caught:
        open_raster(ref_of(server))
    assert CANARY not in f"{caught.value} {caught.value.__cause__!r}"
    server.answer = lambda _: Reply(404)
    with pytest.raises(ReadError, match="HTTP 404"):
        open_raster(ref_of(server))


def test_nothing_signed_is_stored_logged_or_shown(
    cloud: Cloud, server: RangeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    grid = utm_grid(200, 1.0)
    items = []
    for name in ("good", "gone", "signed"):
        item = naip_scene(cloud.folder, grid=grid, item_id=name)
        path = Path(item["assets"]["image"]["href"])
        item["assets"]["image"]["href"] = href_of(server, str(path.relative_to(cloud.folder)))
        items.append(item)
    items[1]["assets"]["image"]["href"] += ".gone"
    items[2]["assets"]["image"]["href"] += f"?se=1&sig={CANARY}-given"
    items[2]["links"] = [{"rel": "self", "href": f"https://u:{CANARY}@example.org/i.json?sig={CANARY}"}]
    warehouse = Warehouse(tmp_path / "warehouse", create=True)
    server.answer = lambda asked: Reply(404) if ".gone" in asked.path else cloud(asked)
    commit = warehouse.index_items(items, chip_size=100, storage=storage_of(server))
    assert warehouse.collection("naip").count() == 8, commit
    index = Indexer(items[2], chip_size=100, storage=storage_of(server)).create_index()
    index.write(tmp_path / "warehouse" / "index.parquet")
    assert Chipper(index, bands=["red"], storage=storage_of(server))[0]["red"].shape == (1, 100, 100)
    texts = [path.read_bytes() for path in (tmp_path / "warehouse").rglob("*") if path.is_file()]
    assert texts
    assert not [1 for text in texts if CANARY.encode() in text]
    assert CANARY not in caplog.text
    assert cloud.asked_for, "signing did happen"


def test_values_that_hold_secrets_do_not_show_them() -> None:
    assert CANARY not in repr(Signed(f"https://h/?sig={CANARY}", {"Authorization": CANARY}))
    token = signing._Token(CANARY, 0, 1)
    assert CANARY not in repr(token)


def test_earthdata_tokens_go_to_nasa_over_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", CANARY)
    sign = sign_of("earthdata", "")
    for host in ("data.lpdaac.earthdatacloud.nasa.gov", "urs.earthdata.nasa.gov"):
        assert sign(f"https://{host}/x.tif", None).headers == {"Authorization": f"Bearer {CANARY}"}
    for url in (
        "http://data.lpdaac.earthdatacloud.nasa.gov/x.tif",
        "https://earthdata.nasa.gov.evil.example/x.tif",
        "https://evilearthdata.nasa.gov.example/x.tif",
        "https://fakeearthdata.nasa.gov/x.tif",
        "https://d1.cloudfront.net/x.tif",
    ):
        assert sign(url, None) == Signed(url)
    monkeypatch.delenv("EARTHDATA_TOKEN")
    with pytest.raises(InputError, match="EARTHDATA_TOKEN"):
        sign("https://urs.earthdata.nasa.gov/x.tif", None)


@signer
def by_header(url: str, is_refused: bool) -> Signed:
    return Signed(url, {"Authorization": f"{CANARY}-{'second' if is_refused else 'first'}"})


@signer
def by_failing(url: str, is_refused: bool) -> str:
    raise RuntimeError(f"could not sign {url}?{CANARY} {is_refused}")


def test_a_function_of_the_users_signs_and_is_asked_again_after_a_refusal(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "a.tif", ramp((300, 300)), utm_grid(300))

    def answer(asked: Asked) -> Reply:
        is_right = asked.headers.get("Authorization") == f"{CANARY}-second"
        return part(path.read_bytes(), asked) if is_right else Reply(401)

    with serving(answer) as server:
        storage = Storage(signing=f"{__name__}:by_header", hosts=("127.0.0.1",))
        ref = RasterRef(f"{server.url}/a.tif", "scene-1", "red", storage=storage)
        with open_raster(ref) as opened:
            assert opened.header.width == 300
        failing = Storage(signing=f"{__name__}:by_failing", hosts=("127.0.0.1",))
        with pytest.raises(ReadError, match=r"signing by .*by_failing' failed: RuntimeError") as caught:
            open_raster(RasterRef(f"{server.url}/a.tif", "scene-1", "red", storage=failing))
    assert CANARY not in f"{caught.value} {caught.value.__cause__!r}"


def test_headers_stay_with_the_host_they_were_made_for(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "a.tif", ramp((300, 300)), utm_grid(300))
    with serving(lambda asked: part(path.read_bytes(), asked), "127.0.0.2") as other:
        with serving(lambda _: Reply(302, headers={"Location": f"{other.url}/a.tif"})) as first:
            hosts = ("127.0.0.1", "127.0.0.2")
            storage = Storage(signing=f"{__name__}:only_first", hosts=hosts)
            with open_raster(RasterRef(f"{first.url}/a.tif", "scene-1", "red", storage=storage)) as opened:
                assert opened.header.width == 300
        assert all("Authorization" in asked.headers for asked in first.asked)
        assert not [asked for asked in other.asked if "Authorization" in asked.headers]


@signer
def only_first(url: str, _is_refused: bool) -> Signed:
    return Signed(url, {"Authorization": CANARY} if "//127.0.0.1:" in url else {})


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "no_such_module:sign", "os:no_such_function"])
def test_a_configuration_can_name_no_function_but_a_signer(name: str) -> None:
    with pytest.raises(InputError, match=r"can't be imported|is not marked"):
        sign_of(name, "")


@pytest.mark.parametrize("name", ["os.system", "", "a:b:c", "planetary computer", "../x:y", "http://h:x"])
def test_ways_of_signing_have_a_form(name: str) -> None:
    with pytest.raises(ValidationError):
        Storage(signing=name)
