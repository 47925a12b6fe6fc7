"""Where and when the demo's scenes were taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from flows.demo.land import Style


@dataclass(frozen=True, slots=True)
class Place:
    """Where scenes lie: UTM zone, upper left corners (x, y) in it, and what the countryside looks like.

    `tile` names the Sentinel-2 tile, `path_row` Landsat's, `quad` NAIP's map sheet; `state` is NAIP's too.
    """

    zone: int
    tile: str
    tile_corner: tuple[float, float]
    path_row: str
    landsat_corner: tuple[float, float]
    quad: str
    state: str
    quad_corner: tuple[float, float]
    countryside: Style
    village: Style
    seed: int


IOWA = Place(
    zone=15,
    tile="15TVG",
    tile_corner=(399960.0, 4700040.0),
    path_row="027031",
    landsat_corner=(385185.0, 4723815.0),
    quad="m_4209449_ne_15_060",
    state="ia",
    quad_corner=(412000.2, 4691000.4),
    countryside=Style((800, 400), (0.0,), 1609, relief_m=25, wooded=0.05, towns=3, greenest=205),
    village=Style((420, 260), (0.0,), 0, relief_m=12, wooded=0.06, towns=0, greenest=205),
    seed=31,
)
CALIFORNIA = Place(
    zone=10,
    tile="10SFH",
    tile_corner=(600000.0, 4300020.0),
    path_row="044033",
    landsat_corner=(582885.0, 4325115.0),
    quad="m_3812152_sw_10_060",
    state="ca",
    quad_corner=(609000.0, 4292000.4),
    countryside=Style((520, 230), (0.05, 0.5, -0.35, 0.9, 1.2), 0, relief_m=260, wooded=0.16, towns=5, greenest=165),
    village=Style((260, 170), (0.1, 0.5), 0, relief_m=25, wooded=0.10, towns=1, greenest=165),
    seed=57,
)


@dataclass(frozen=True, slots=True)
class Pass:
    """One overflight: day (YYYYMMDD), time of day (UTC), share of cloud, side cut off by the swath's edge."""

    day: str
    time: str
    cloudy: float = 0.0
    corner: str | None = None

    @property
    def datetime(self) -> str:
        """RFC 3339."""
        return f"{self.day[:4]}-{self.day[4:6]}-{self.day[6:]}T{self.time}Z"

    @property
    def day_of_year(self) -> int:
        """1 to 366."""
        return date.fromisoformat(self.datetime[:10]).timetuple().tm_yday

    @property
    def seed(self) -> int:
        """A number of its own for each pass."""
        return int(self.day) + len(self.time)


SENTINEL2_PASSES = (
    Pass("20240612", "17:04:21.024000", 0.16, "left"),
    Pass("20240910", "17:04:19.024000", 0.06),
)
LATER_PASS = Pass("20241005", "17:04:24.024000", 0.10, "right")
LANDSAT_PASSES = (
    Pass("20240608", "16:52:40.194486", 0.12, "right"),
    Pass("20240912", "16:52:55.194486", 0.04, "left"),
)
SENTINEL1_PASSES = (Pass("20240610", "00:13:02.816656", 0, "left"), Pass("20240914", "00:13:06.816656"))
NAIP_PASSES = (Pass("20210712", "00:00:00"), Pass("20230620", "00:00:00"))
