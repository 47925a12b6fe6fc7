"""Where stacchip is right, we agree with it; run in an environment of its own, which is made on first use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyproj import CRS

from stacchip_core import Indexer
from stacchip_core.sources.profiles import load_profile
from tests import scenes
from tests.benchmarks.environment import EnvironmentUnavailableError, stacchip_python
from tests.data import REPO

# stacchip counts saturated pixels and shadows as cloud too: `Sentinel2Indexer.scl_filter`.
STACCHIP_CLOUD = (1, 3, 8, 9, 10)


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return stacchip_python()
    except (EnvironmentUnavailableError, subprocess.TimeoutExpired) as err:
        pytest.skip(str(err))


@pytest.fixture(scope="module")
def item_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 5 x 4 chips and some pixels more, a quarter without data."""
    folder = tmp_path_factory.mktemp("parity")
    item = scenes.sentinel2_scene(folder, grid=scenes.utm_grid(1320, width=1080), nodata_share=0.25)
    item["properties"]["proj:wkt2"] = CRS.from_user_input(item["properties"]["proj:code"]).to_wkt()
    item["assets"] = {key: item["assets"][key] for key in ("red", "green", "blue", "nir", "scl")}
    return scenes.write_item(folder, item)


@pytest.fixture(scope="module")
def theirs(python: Path, item_path: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    table = tmp_path_factory.mktemp("theirs") / "index.parquet"
    script = REPO / "tests" / "benchmarks" / "run_stacchip.py"
    command = [str(python), "-W", "ignore", str(script), "index", str(item_path), str(table)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["chips"] == 20
    return pq.read_table(table)


@pytest.fixture(scope="module")
def ours(item_path: Path) -> pa.Table:
    """Our index under stacchip's list of cloud classes, in its order: row by row of chips."""
    profile = load_profile("sentinel-2-l2a")
    qa = profile.qa.model_copy(update={"cloud": STACCHIP_CLOUD})
    table = Indexer(item_path, profile=profile.model_copy(update={"qa": qa})).create_index().table
    return table.sort_by([("chip_y", "ascending"), ("chip_x", "ascending")])


@pytest.mark.slow
def test_same_chips(ours: pa.Table, theirs: pa.Table) -> None:
    assert ours["chip_x"].to_pylist() == theirs["chip_index_x"].to_pylist()
    assert ours["chip_y"].to_pylist() == theirs["chip_index_y"].to_pylist()


@pytest.mark.slow
def test_nodata_fraction_agrees_everywhere(ours: pa.Table, theirs: pa.Table) -> None:
    nodata = ours["nodata_fraction"].to_numpy()
    assert np.array_equal(nodata, theirs["nodata_percentage"].to_numpy())
    assert 0.1 < nodata.mean() < 0.4


@pytest.mark.slow
def test_cloud_fraction_agrees_where_all_pixels_are_valid(ours: pa.Table, theirs: pa.Table) -> None:
    whole = ours["nodata_fraction"].to_numpy() == 0
    assert whole.sum() >= 8
    cloud = ours["cloud_fraction"].to_numpy()[whole]
    assert np.array_equal(cloud, theirs["cloud_cover_percentage"].to_numpy()[whole])
    assert np.ptp(cloud) > 0


@pytest.mark.slow
def test_cloud_fraction_is_of_valid_pixels_where_stacchip_counts_nodata_as_clear(
    ours: pa.Table, theirs: pa.Table
) -> None:
    nodata = ours["nodata_fraction"].to_numpy()
    part = (nodata > 0) & (nodata < 1)
    assert part.sum() >= 4
    expected = theirs["cloud_cover_percentage"].to_numpy()[part] / (1 - nodata[part])
    assert ours["cloud_fraction"].to_numpy()[part] == pytest.approx(expected, rel=1e-5)
