"""A chip table together with the scenes that its rows are cut from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stacchip_core.errors import InputError, ReadError, StoreError
from stacchip_core.index.grid import GridSpec
from stacchip_core.index.schema import SCHEMA_VERSION, write_chips
from stacchip_core.sources.access import as_roots
from stacchip_core.sources.scene import Scene

if TYPE_CHECKING:
    import geopandas as gpd

_SCENES, _SPECS, _VERSION = b"stacchip:scenes", b"stacchip:specs", b"stacchip:schema_version"


@dataclass(frozen=True, slots=True)
class ChipIndex:
    """Rows of chips (see `index.schema`), their scenes, and how those were cut.

    Attributes:
        table: the chip table, one row a chip.
        scenes: by `<collection>/<item_id>`; every row's scene is here.
        specs: the chip sizes, strides and edges found in the table.
        local_roots: folders that relative hrefs of the scenes are looked up in; never written.
    """

    table: pa.Table
    scenes: Mapping[str, Scene]
    specs: tuple[GridSpec, ...]
    local_roots: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of chips."""
        return len(self.table)

    def to_geopandas(self) -> gpd.GeoDataFrame:
        """The table as a GeoDataFrame in longitude and latitude (OGC:CRS84)."""
        import geopandas as gpd

        frame = self.table.drop_columns(["geometry", "bbox"]).to_pandas()
        geometry = gpd.GeoSeries.from_wkb(self.table["geometry"].to_pandas(), crs="OGC:CRS84")
        return gpd.GeoDataFrame(frame, geometry=geometry.values, crs="OGC:CRS84")

    def write(self, path: str | Path) -> None:
        """Write one GeoParquet file that is enough to cut the chips: scenes and grid specs travel in its footer.

        The file appears whole, in place of an older one, or not at all.

        Raises:
            StoreError: it can't be written.
        """
        scenes = {key: self.scenes[key].to_json() for key in sorted(self.scenes)}
        extra = {_SCENES.decode(): json.dumps(scenes), _SPECS.decode(): json.dumps([str(spec) for spec in self.specs])}
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write_chips([self.table], str(unfinished), extra=extra)
            unfinished.replace(path)
        except OSError as err:
            with suppress(OSError):
                unfinished.unlink()
            raise StoreError(f"{path.name}: can't be written: {str(err).replace(str(unfinished), path.name)}") from err

    @classmethod
    def read(cls, path: str | Path | BinaryIO, local_roots: str | Path | Iterable[str | Path] = ()) -> ChipIndex:
        """Inverse of `write`.

        Args:
            path: a file that `write` made, or an open one.
            local_roots: folders that relative hrefs of the scenes are looked up in.

        Raises:
            ReadError: no such file, or no Parquet file.
            InputError: a Parquet file, but no chip index, or one of a newer schema version.
        """
        name = Path(path).name if isinstance(path, str | Path) else "chip index"
        try:
            with pq.ParquetFile(str(path) if isinstance(path, Path) else path) as file:
                table = file.read()
        except (OSError, pa.ArrowException) as err:
            is_gone = isinstance(err, FileNotFoundError)
            raise ReadError(f"{name}: {'no such file' if is_gone else str(err).replace(str(path), name)}") from err
        metadata = table.schema.metadata or {}
        if missing := [key.decode() for key in (_SCENES, _SPECS, _VERSION) if key not in metadata]:
            raise InputError(f"{name}: not written by ChipIndex.write: its footer lacks {', '.join(missing)}")
        if int(metadata[_VERSION]) > SCHEMA_VERSION:
            raise InputError(
                f"{name}: schema version {metadata[_VERSION].decode()}, this release reads {SCHEMA_VERSION}"
            )
        try:
            scenes = {key: Scene.from_json(text) for key, text in json.loads(metadata[_SCENES]).items()}
            specs = tuple(GridSpec.parse(text) for text in json.loads(metadata[_SPECS]))
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise InputError(f"{name}: its footer is damaged: {type(err).__name__}: {err}") from err
        return cls(table.replace_schema_metadata(None), scenes, specs, as_roots(local_roots))
