"""The door to rasterio: what it opens, what it refuses, what it asks servers for, and how it says what went wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio

from stacchip_core.errors import HrefRefusedError, InputError, ReadError, TransientReadError
from stacchip_core.sources import remote as remote_module
from stacchip_core.sources.access import Storage
from stacchip_core.sources.cog import RasterRef, check_resampling, encode_png, open_raster, opening, read_header
from stacchip_core.sources.connections import Patience
from stacchip_core.sources.raster import Grid, Window
from tests.data import RASTERS, needs_shared_data
from tests.file_server import FileServer, serve
from tests.items import utm_grid
from tests.rasters import Layout, ramp, wedge, write_cog

GRID = utm_grid(600)
ALL = Window(0, 0, 600, 600)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a good raster `a.tif`, below another whose name has a space."""
    folder = tmp_path / "my scenes"
    write_cog(folder / "a.tif", ramp(GRID.shape), GRID)
    return folder


@pytest.fixture
def server(root: Path) -> Iterator[FileServer]:
    with serve(root) as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on servers at once."""
    monkeypatch.setattr(remote_module, "PATIENCE", Patience(silence_s=1, total_s=2, retries=0))


def local(root: Path, name: str = "a.tif", **more: Any) -> RasterRef:
    return RasterRef(name, "scene-1", "red", local_roots=(str(root),), **more)


def remote(server: FileServer, name: str = "a.tif", **more: Any) -> RasterRef:
    return RasterRef(f"{server.url}/{name}", "scene-1", "red", host=urlsplit(server.url).netloc, **more)


def test_pixels_and_header_are_those_of_the_file(root: Path) -> None:
    with open_raster(local(root)) as raster:
        assert raster.header.grid == GRID
        assert (raster.header.height, raster.header.width, raster.header.layers) == (600, 600, 1)
        assert (raster.header.dtype, raster.header.nodata, raster.header.block_shape) == ("uint16", None, (256, 256))
        np.testing.assert_array_equal(raster.read(ALL)[0], ramp(GRID.shape))
        np.testing.assert_array_equal(raster.read(Window(250, 300, 20, 10))[0], ramp(GRID.shape)[300:310, 250:270])
        assert raster.read_valid(ALL).all()


@pytest.mark.parametrize("how", ["nodata", "alpha", "mask", "nan", "profile"])
def test_every_way_to_say_nodata_is_seen(how: str, tmp_path: Path) -> None:
    empty = wedge(GRID.shape, 0.2)
    pixels: Any = np.where(empty, 0, ramp(GRID.shape, np.uint8))[np.newaxis].astype(np.uint8)
    layout, mask, ref = Layout(), None, local(tmp_path)
    if how == "nodata":
        layout = Layout(nodata=0.0)
    elif how == "alpha":
        pixels = np.concatenate([pixels] * 3 + [np.where(empty, 0, 255)[np.newaxis]]).astype(np.uint8)
        layout, ref = Layout(has_alpha=True, interleave="pixel"), local(tmp_path, layers=3)
    elif how == "mask":
        mask = ~empty
    elif how == "nan":
        pixels, layout = np.where(empty, np.nan, pixels).astype(np.float32), Layout(nodata=np.nan)
    else:
        ref = local(tmp_path, nodata=0.0)
    write_cog(tmp_path / "a.tif", pixels, GRID, layout=layout, mask=mask)
    with open_raster(ref) as raster:
        np.testing.assert_array_equal(raster.read_valid(ALL), ~empty)
        np.testing.assert_array_equal(raster.read_valid(Window(3, 5, 100, 90)), ~empty[5:95, 3:103])


def test_an_alpha_layer_that_the_profile_names_is_a_measurement(tmp_path: Path) -> None:
    write_cog(tmp_path / "a.tif", np.zeros((4, 600, 600), np.uint8), GRID, layout=Layout(has_alpha=True))
    with open_raster(local(tmp_path, layers=4)) as raster:
        assert raster.read_valid(ALL).all()


def halved() -> Grid:
    """The same ground in pixels twice as large."""
    a, b, c, d, e, f = GRID.transform
    return Grid(GRID.crs, (2 * a, b, c, d, 2 * e, f), 300, 300)


@pytest.mark.parametrize("is_far", [False, True])
@pytest.mark.parametrize("method", ["average", "bilinear", "cubic", "nearest"])
def test_an_alpha_layer_that_the_profile_names_is_resampled_like_any_other(
    tmp_path: Path, method: str, is_far: bool
) -> None:
    pixels = np.random.default_rng(3).integers(1, 255, (4, 600, 600)).astype(np.uint8)
    pixels[3, 100:300, 50:400] = 0  # dark water in near infrared
    for name, has_alpha in (("plain.tif", False), ("tagged.tif", True)):
        write_cog(tmp_path / name, pixels, GRID, layout=Layout(has_alpha=has_alpha))
    with serve(tmp_path) as server:
        ref = partial(remote, server) if is_far else partial(local, tmp_path)
        found = {}
        for name in ("plain.tif", "tagged.tif"):
            with open_raster(ref(name, layers=4)) as raster:
                window = Window(10, 20, 200, 150)
                found[name] = raster.read_on(halved(), window, method), raster.read_valid_on(halved(), window, method)
    np.testing.assert_array_equal(found["tagged.tif"][0], found["plain.tif"][0])
    assert all(valid.all() for _, valid in found.values())


@pytest.mark.parametrize(
    ("how", "layers"),
    [*((how, n) for how in ("mask", "nodata") for n in (1, 2, 3, 4, 5)), ("alpha", 3), ("alpha", 4), ("alpha", 5)],
)
def test_the_mask_of_resampled_pixels_is_that_of_the_file(tmp_path: Path, how: str, layers: int) -> None:
    """However many layers there are: GDAL's own mask overlooks an alpha layer after four others."""
    valid = np.ones(GRID.shape, np.bool_)
    valid[:, :200] = valid[500:] = False
    pixels = np.random.default_rng(4).integers(1, 255, (layers, 600, 600)).astype(np.uint8)
    layout, mask = Layout(has_alpha=how == "alpha", nodata=0.0 if how == "nodata" else None), None
    if how == "alpha":
        pixels = np.concatenate([pixels, np.where(valid, 255, 0)[np.newaxis].astype(np.uint8)])
    elif how == "mask":
        mask = valid
    else:
        pixels[:, ~valid] = 0
    write_cog(tmp_path / "a.tif", pixels, GRID, layout=layout, mask=mask)
    with open_raster(local(tmp_path, layers=layers)) as raster:
        found = raster.read_valid_on(halved(), Window(0, 0, 300, 300), "average")
        np.testing.assert_array_equal(found, valid[::2, ::2])
        averaged = raster.read_on(halved(), Window(100, 0, 200, 250), "average", [1])[0]
    expected = pixels[0, :500, 200:].astype(float).reshape(250, 2, 200, 2).mean((1, 3))
    assert np.abs(averaged - expected).max() <= 0.5


def test_a_profile_may_name_more_layers_than_the_file_has(tmp_path: Path) -> None:
    write_cog(tmp_path / "a.tif", np.ones((3, 600, 600), np.uint8), GRID)
    with open_raster(local(tmp_path, layers=4, nodata=0.0)) as raster:
        assert raster.read_valid(ALL).all()


VRT = """<VRTDataset rasterXSize="600" rasterYSize="600"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
<SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""


def test_nothing_but_geotiffs_is_opened_whatever_its_name(root: Path) -> None:
    (root / "vrt.tif").write_text(VRT.format(root / "a.tif"))
    (root / "page.tif").write_text("<!DOCTYPE html><html>404</html>")
    (root / "empty.tif").touch()
    (root / "text.tif").write_text("hello")
    (root / "folder.tif").mkdir()
    with rasterio.open(root / "vrt.tif") as opened:
        assert opened.width == 600, "GDAL would"
    for name in ("vrt.tif", "page.tif", "empty.tif", "text.tif", "folder.tif"):
        with pytest.raises(ReadError, match=rf"item scene-1: asset 'red' \({name}\): ") as caught:
            open_raster(local(root, name))
        assert not isinstance(caught.value, TransientReadError)


@pytest.mark.parametrize("href", ["/vsicurl/http://127.0.0.1:9/x.tif", "/vsizip/x.zip/a.tif", VRT.format("/etc/x")])
def test_gdal_handlers_and_xml_never_reach_gdal(href: str, root: Path) -> None:
    with pytest.raises(HrefRefusedError, match="item scene-1: asset 'red': "):
        open_raster(RasterRef(href, "scene-1", "red", local_roots=(str(root), "/")))


def test_files_outside_the_roots_are_refused(root: Path, tmp_path: Path) -> None:
    write_cog(tmp_path / "secret.tif", ramp(GRID.shape), GRID)
    (root / "link.tif").symlink_to(tmp_path / "secret.tif")
    for name in ("../secret.tif", "link.tif", str(tmp_path / "secret.tif")):
        with pytest.raises(HrefRefusedError, match="item scene-1: asset 'red': local file"):
            open_raster(local(root, name))
    with pytest.raises(HrefRefusedError, match="local_roots"):
        open_raster(RasterRef("a.tif", "scene-1", "red"))


def test_odd_file_names_are_only_names(root: Path) -> None:
    for name in ("a!b.tif", "a#b.tif", "a?b.tif", "ä b%20.tif"):
        write_cog(root / name, ramp(GRID.shape), GRID)
        assert read_header(local(root, name)).width == 600


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.3, 0.9])
def test_truncated_files_are_named_and_give_no_pixels(share: float, root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 60_000, GRID.shape).astype(np.uint16)
    content = write_cog(root / "cut.tif", noise, GRID, layout=Layout(has_overviews=False)).read_bytes()
    (root / "cut.tif").write_bytes(content[: int(len(content) * share)])
    with (
        pytest.raises(ReadError, match=r"item scene-1: asset 'red' \(cut\.tif\): ") as caught,
        open_raster(local(root, "cut.tif")) as raster,
    ):
        raster.read(ALL)
    assert str(root) not in str(caught.value)
    assert "my scenes" not in str(caught.value)
    assert not isinstance(caught.value, TransientReadError)


def test_missing_files_are_named_without_their_folder(root: Path) -> None:
    with pytest.raises(ReadError, match=r"item scene-1: asset 'red': local file 'gone\.tif' is not there") as caught:
        open_raster(local(root, "gone.tif"))
    assert str(root) not in str(caught.value)


def test_blocks_that_would_fill_the_memory_are_refused_before_they_are_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MAX_BLOCK_BYTES", 256 * 256 * 2)
    assert read_header(local(root)).block_shape == (256, 256)
    write_cog(root / "rgb.tif", np.ones((3, 600, 600), np.uint16), GRID, layout=Layout(interleave="pixel"))
    with pytest.raises(ReadError, match=r"one block of 256 x 256 pixels is .* MiB decoded.*Cloud Optimized"):
        open_raster(local(root, "rgb.tif"))


def test_windows_past_the_raster_are_not_stretched(root: Path) -> None:
    with open_raster(local(root)) as raster:
        for window in (Window(590, 590, 20, 20), Window(-5, 0, 10, 10), Window(600, 0, 5, 5)):
            try:
                found = raster.read(window)
            except ReadError as err:
                assert "item scene-1" in str(err)
            else:
                assert found.shape[1:] != (window.height, window.width)


def test_a_closed_raster_is_an_error_of_ours(root: Path) -> None:
    raster = open_raster(local(root))
    raster.close()
    with pytest.raises(ReadError, match="item scene-1"):
        raster.read(ALL)


SITE = 'LOCAL_CS["site",UNIT["metre",1]]'


@pytest.mark.parametrize("case", ["no crs", "no transform", "gcps", "site", "mars"])
def test_rasters_that_lie_nowhere_on_the_earth_have_no_grid(case: str, tmp_path: Path) -> None:
    there = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    corners = [rasterio.control.GroundControlPoint(r, c, 9 + c, 47 - r) for r in (0, 5) for c in (0, 5)]
    options: dict[str, Any] = {
        "no crs": {"transform": there},
        "no transform": {"crs": "EPSG:32632"},
        "gcps": {"crs": "EPSG:4326", "gcps": corners},
        "site": {"crs": SITE, "transform": there},
        "mars": {"crs": "IAU_2015:49910", "transform": there},
    }[case]
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=5, width=5, count=1, dtype="uint8", **options
    ) as raster:
        raster.write(np.ones((1, 5, 5), np.uint8))
    assert read_header(local(tmp_path)).grid is None


@needs_shared_data
def test_real_rasters_of_awkward_kinds_say_what_they_are() -> None:
    grd = local(RASTERS, "sentinel-1-grd/S1A_IW_GRDH_20180716/iw-vv.tiff")
    assert read_header(grd).grid is None, "ground control points only"
    assert read_header(local(RASTERS, "misc/odcgeo_au-3577-rotated.tif")).grid is not None
    dem = local(RASTERS, "linz/BQ25_10000_0305_DEM_lerc.tiff")
    assert read_header(dem).nodata == -9999
    names = sorted(str(path.relative_to(RASTERS)) for path in RASTERS.rglob("*.jp2"))
    assert names
    for name in names:
        with open_raster(local(RASTERS, name, media_type="image/jp2")) as raster:
            assert raster.read(Window(0, 0, 8, 8)).shape[1:] == (8, 8)
        assert read_header(local(RASTERS, name)).width > 8, "by its name, without a media type"


@pytest.mark.parametrize("href", ["a.tif", "a.tif?v=1", "plain", "dir/b.TIFF"])
def test_servers_are_asked_for_the_file_alone(href: str, server: FileServer, root: Path) -> None:
    for name in ("plain", "dir/b.TIFF"):
        write_cog(root / name, ramp(GRID.shape), GRID)
    for name in ("a.tif.aux.xml", "a.tif.ovr", "a.tif.msk", "a.tfw", "a.aux.xml"):
        (root / name).write_text("<bait/>")
    with open_raster(remote(server, href)) as raster:
        np.testing.assert_array_equal(raster.read(ALL)[0], ramp(GRID.shape))
        assert raster.read_valid(ALL).all()
    asked = server.requests()
    assert {path for _, path in asked} == {f"/{href}"}
    assert len(asked) <= 3, "a few kilobytes: its size, and one range"


def test_sidecars_of_local_files_change_nothing(root: Path) -> None:
    (root / "a.tif.aux.xml").write_text("<PAMDataset><PAMRasterBand band='1'><NoDataValue>1</NoDataValue>"
                                        "</PAMRasterBand></PAMDataset>")  # fmt: skip
    (root / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    header = read_header(local(root))
    assert (header.grid, header.nodata) == (GRID, None)


@pytest.mark.parametrize(
    ("status", "is_transient"),
    [(404, False), (403, False), (400, False), (500, True), (503, True), (429, True), (0, True)],
)
@pytest.mark.usefixtures("quick")
def test_answers_of_servers_tell_whether_to_retry(status: int, is_transient: bool, server: FileServer) -> None:
    server.fault("/a.tif", status)
    with pytest.raises(ReadError, match=r"item scene-1: asset 'red' \(http://127.0.0.1:\d+/a.tif\): ") as caught:
        open_raster(remote(server, "a.tif?sig=SECRET&se=1"))
    assert isinstance(caught.value, TransientReadError) == is_transient
    assert "SECRET" not in str(caught.value)
    server.fault("/a.tif", None)
    with open_raster(remote(server, "a.tif?sig=SECRET&se=1")) as raster:
        assert raster.header.width == 600, "what went wrong once is not remembered"


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_slow_or_gone_is_transient(server: FileServer) -> None:
    server.fault("/a.tif", delay_s=5)
    begin = time.monotonic()
    with pytest.raises(TransientReadError):
        open_raster(remote(server))
    assert time.monotonic() - begin < 4
    with pytest.raises(TransientReadError):
        open_raster(RasterRef("http://127.0.0.1:9/x.tif", "scene-1", "red", host="127.0.0.1:9"))


@pytest.mark.usefixtures("quick")
def test_a_server_that_fails_between_header_and_pixels_is_transient(server: FileServer, root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 60_000, GRID.shape).astype(np.uint16)
    write_cog(root / "big.tif", noise, GRID)
    with open_raster(remote(server, "big.tif")) as raster:
        server.fault("/big.tif", 503)
        with pytest.raises(TransientReadError, match="item scene-1: asset 'red'"):
            raster.read(ALL)


def test_a_file_replaced_on_the_server_is_read_anew(server: FileServer, root: Path) -> None:
    assert read_header(remote(server)).width == 600
    write_cog(root / "a.tif", ramp((300, 300)), utm_grid(300))
    assert read_header(remote(server)).width == 300


def test_threads_read_side_by_side(server: FileServer, root: Path) -> None:
    def pixels(n: int) -> Any:
        ref = remote(server) if n % 2 else local(root)
        with open_raster(ref) as raster:
            return raster.read(Window(n, n, 64, 64))[0]

    with ThreadPoolExecutor(4) as pool:
        for n, found in enumerate(pool.map(pixels, range(24))):
            np.testing.assert_array_equal(found, ramp(GRID.shape)[n : n + 64, n : n + 64])


@pytest.mark.server
def test_s3_is_read_through_the_endpoint_of_the_storage(s3_endpoint: str, root: Path) -> None:
    from botocore.session import get_session

    client = get_session().create_client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="scenes")
    client.put_object(Bucket="scenes", Key="x/a b.tif", Body=(root / "a.tif").read_bytes())
    storage = Storage(endpoint=s3_endpoint, region="us-east-1")
    with open_raster(RasterRef("s3://scenes/x/a b.tif", "scene-1", "red", storage=storage)) as raster:
        np.testing.assert_array_equal(raster.read(ALL)[0], ramp(GRID.shape))
    with pytest.raises(ReadError, match=r"item scene-1: asset 'red' \(s3://scenes/gone.tif\)"):
        open_raster(RasterRef("s3://scenes/gone.tif", "scene-1", "red", storage=storage))


def test_resampling_onto_the_same_grid_changes_nothing(root: Path) -> None:
    with open_raster(local(root)) as raster:
        for method in ("nearest", "bilinear"):
            found = raster.read_on(GRID, Window(10, 20, 100, 50), method)
            np.testing.assert_array_equal(found[0], ramp(GRID.shape)[20:70, 10:110])
        assert raster.read_valid_on(GRID, Window(10, 20, 100, 50), "nearest").all()


def test_unknown_resamplings_are_refused_with_a_list() -> None:
    assert check_resampling("cubic") == "cubic"
    with pytest.raises(InputError, match=r"unknown resampling 'nearst'; there are nearest, bilinear"):
        check_resampling("nearst")


@pytest.mark.parametrize("layers", [1, 3])
def test_a_png_is_read_back_as_it_was(layers: int, tmp_path: Path) -> None:
    image = ramp((layers * 20, 30), np.uint8).reshape(layers, 20, 30)
    (tmp_path / "a.png").write_bytes(encode_png(image))
    with rasterio.open(tmp_path / "a.png") as raster:
        np.testing.assert_array_equal(raster.read(), image)


def test_a_reference_names_item_and_asset_never_a_signature() -> None:
    ref = RasterRef("https://u:SECRET@h/a.tif?sig=SECRET&v=1", "scene-1", "red")
    assert str(ref) == "item scene-1: asset 'red' (https://h/a.tif?v=1)"
