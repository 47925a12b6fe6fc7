"""The same lock gives the same bytes: in fresh processes, with one worker and with four, on disk and on S3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stacchip_core import Dataset, Storage
from stacchip_core.chips.checking import verify_dataset
from stacchip_core.chips.formats.table import WRITERS
from tests.data import REPO
from tests.s3_fake import S3Fake
from tests.warehouses import made, scenes

FORMATS = sorted(WRITERS)

CODE = """
import json, sys
from stacchip_core import Storage, Warehouse, materialize
from tests.warehouses import RGBN, spec
root, endpoint, pixels, workers, formats = json.loads(sys.argv[1])
storage = Storage(endpoint=endpoint, region="us-east-1") if endpoint else None
warehouse = Warehouse(root, storage=storage, local_roots=[pixels])
found = {}
for form in formats:
    wanted = spec(name=f"{form}-{workers}", format=form, bands=RGBN, limit=16, shard_size=8)
    lock = materialize(warehouse, wanted, storage=Storage(), workers=workers).lock
    found[form] = [(shard.sha256, shard.arrays_sha256, shard.size) for shard in lock.shards]
print(json.dumps(found))
"""


def in_a_fresh_process(*given: Any) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-c", CODE, json.dumps(given)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.server
@pytest.mark.slow
def test_shards_are_the_same_bytes_in_every_process_on_every_store(s3_fake: S3Fake, tmp_path: Path) -> None:
    pixels = tmp_path / "pixels"
    items = scenes(pixels)[:2]
    made(pixels, tmp_path / "warehouse", items)
    local = [in_a_fresh_process(str(tmp_path / "warehouse"), None, str(pixels), n, FORMATS) for n in (1, 4)]
    store = s3_fake.new_store()
    storage = Storage(endpoint=s3_fake.endpoint, region="us-east-1")
    made(pixels, store.root, items, storage)
    far = in_a_fresh_process(store.root, s3_fake.endpoint, str(pixels), 4, FORMATS)
    assert local[0] == local[1] == far
    assert {form: len(shards) for form, shards in local[0].items()} == dict.fromkeys(FORMATS, 2)
    assert len({tuple(shard[1] for shard in shards) for shards in local[0].values()}) == 1  # pixels, whatever the form
    for root, how in ((str(tmp_path / "warehouse"), None), (store.root, storage)):
        for form in FORMATS:
            assert not verify_dataset(Dataset.open(f"{root}/datasets/{form}-4", how), deep=True)
