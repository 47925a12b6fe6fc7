"""stac-fastapi-pgstac on PostgreSQL with PostGIS, as many catalogs run it, on 127.0.0.1 while a test needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from deployments.processes import HOST, Place, free_port, wait_for
from tests.postgres import postgres

JSON = dict[str, Any]
BULK_ITEMS = 500  # of a request
EXTENSION = "/usr/share/postgresql/*/extension/postgis.control"
# Without them the server compares times as text, and answers 500 to CQL2 on them.
QUERYABLES: JSON = {
    "updated": {"type": "string", "format": "date-time", "title": "Updated"},
    "created": {"type": "string", "format": "date-time", "title": "Created"},
    "platform": {"type": "string", "title": "Platform"},
    "eo:cloud_cover": {"type": "number", "minimum": 0, "maximum": 100, "title": "Cloud Cover"},
}


@dataclass(slots=True)
class Api:
    """The server, and what was put into it: by collection and id, in the form that it should have."""

    url: str
    truth: dict[str, dict[str, JSON]] = field(default_factory=dict)
    _session: requests.Session = field(default_factory=requests.Session)

    def make(self, collection: str) -> None:
        """An empty collection."""
        self._send("POST", "/collections", _collection(collection))
        self.truth[collection] = {}

    def put(self, items: Iterable[JSON]) -> None:
        """Add items, or put them in the place of those with their ids, many in a request."""
        several = list(items)
        for start in range(0, len(several), BULK_ITEMS):
            some = {item["id"]: item for item in several[start : start + BULK_ITEMS]}
            collection = several[start]["collection"]
            self._send("POST", f"/collections/{collection}/bulk_items", {"items": some, "method": "upsert"})
            self.truth[collection] |= some

    def replace(self, item: JSON) -> None:
        """Put an item in the place of the one with its id."""
        self._send("PUT", f"/collections/{item['collection']}/items/{item['id']}", item)
        self.truth[item["collection"]][item["id"]] = item

    def delete(self, collection: str, names: Iterable[str]) -> None:
        """Remove items."""
        for name in names:
            self._send("DELETE", f"/collections/{collection}/items/{name}")
            del self.truth[collection][name]

    def _send(self, method: str, path: str, body: JSON | None = None) -> None:
        answer = self._session.request(method, f"{self.url}{path}", json=body, timeout=60)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"


@contextmanager
def pgstac(home: Path) -> Iterator[Api]:
    """A server without collections; skips where PostgreSQL or PostGIS is not installed."""
    if not list(Path("/").glob(EXTENSION[1:])):
        pytest.skip("PostGIS is not installed (Debian: apt-get install postgresql-postgis)")
    with postgres(database="postgis") as url:
        parts = urlsplit(url)
        place = Place(
            home,
            free_port(),
            variables={
                "PGHOST": str(parts.hostname),
                "PGPORT": str(parts.port),
                "PGUSER": str(parts.username),
                "PGPASSWORD": "x",  # anybody is trusted, but the server wants one
                "PGDATABASE": parts.path.strip("/"),
                "ENABLE_TRANSACTIONS_EXTENSIONS": "TRUE",
                "WEB_CONCURRENCY": "1",
            },
        )
        _pypgstac(place, ["migrate"])
        queryables = home / "queryables.json"
        queryables.write_text(json.dumps({"type": "object", "properties": QUERYABLES}), encoding="utf-8")
        _pypgstac(place, ["load_queryables", str(queryables)])
        app = ("uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app", "--host", HOST, "--port", str(place.port))
        try:
            wait_for(place.start("api", *app), f"{place.url}/_mgmt/ping")
            yield Api(place.url)
        finally:
            place.stop()


def _pypgstac(place: Place, command: Sequence[str]) -> None:
    program = Path(sys.executable).parent / "pypgstac"
    done = subprocess.run([program, *command], env=place.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pypgstac {command[0]}: {done.stdout[-500:]}{done.stderr[-1000:]}"


def _collection(name: str) -> JSON:
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": name,
        "description": "Made up.",
        "license": "other",
        "links": [],
        "extent": extent,
    }
