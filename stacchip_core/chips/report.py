"""The page of a dataset: what it holds and was made from, with pictures; self-contained, light and dark."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from stacchip_core.chips.charts import Histogram, histogram_svg, number_text, size_text
from stacchip_core.chips.maps import PlaceMap
from stacchip_core.chips.measure import sides_px
from stacchip_core.chips.pictures import Sample, coverage_of, png_uri, sample_of

if TYPE_CHECKING:
    from stacchip_core.chips.dataset import Dataset

logger = logging.getLogger(__name__)

SHARDS_SHOWN = 12
FAILURES_SHOWN = 20
_BAND_COLOURS = {  # CSS colours of bands that have one; others take that of the first collection on the map
    "red": "#d6453d",
    "green": "#2f9e58",
    "blue": "#3b7dd8",
}

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}
.bands {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 22px 26px; padding: 18px; }}
.bands small {{ color: var(--soft); }}
.values {{ margin-bottom: 20px; }}
.values header {{ padding: 13px 18px 0; }}
.values header small {{ color: var(--soft); }}
.sheets.one {{ grid-template-columns: minmax(0, 1fr); }}
</style>
</head>
<body>
"""


def report_html(dataset: Dataset) -> str:
    """The page; text from outside is escaped, and nothing is fetched from anywhere."""
    samples = [one for name in sorted(dataset.lock.bands) if (one := sample_of(dataset, name))]
    style = resources.files("stacchip_core.chips").joinpath("pages", "page.css").read_text(encoding="utf-8")
    title = escape(f"Dataset {dataset.lock.name}")
    parts = [
        _HEAD.format(title=title, style=style),
        f'<header><div class="brand">stacchip-core</div><h1>{title}</h1>{_lead(dataset)}{_figures(dataset)}</header>',
        _section("Coverage", "Outlines of the chips, WGS 84.", _maps(coverage_of(dataset))),
        _splits(dataset),
        _sheets(samples),
        _bands(samples),
        _fractions(dataset),
        _lock(dataset),
        _failures(dataset),
        f"<footer>Drawn from the dataset at {escape(dataset.path)}</footer>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def draw_report(dataset: Dataset) -> str | None:
    """The page, or None, with a line in the log, where it can't be drawn: a dataset is never lost over its pictures."""
    try:
        return report_html(dataset)
    except Exception:
        logger.warning("dataset %r: its report could not be drawn", dataset.lock.name, exc_info=True)
        return None


def _lead(dataset: Dataset) -> str:
    items = len(pc.unique(dataset.chips["item_id"]))
    times = pc.min_max(dataset.chips["datetime"]).as_py()
    first, last = (f"{times[end]:%Y-%m-%d}" for end in ("min", "max"))
    span = first if first == last else f"{first} to {last}"
    told = f"{len(dataset):,} chips of {items:,} items, {span}, made from {dataset.lock.index}"
    return f'<p class="lead">{escape(told)}.</p>'


def _figures(dataset: Dataset) -> str:
    lock = dataset.lock
    bands = max((len(names) for names in lock.bands.values()), default=0)
    figures = {
        "chips": f"{len(dataset):,}",
        "collections": f"{len(lock.bands):,}",
        "bands" if len(lock.bands) == 1 else "bands at most": str(bands),
        "pixels a side": sides_px(lock, dataset.chips),
        f"in {len(lock.shards):,} {lock.spec.format} shards": size_text(sum(shard.size for shard in lock.shards)),
        "could not be read": f"{dataset.failures.num_rows:,}",
    }
    cells = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
        for label, value in figures.items()
    )
    return f'<div class="figures">{cells}</div>'


def _splits(dataset: Dataset) -> str:
    """A map coloured by split, where there are several."""
    names = dataset.chips["split"] if "split" in dataset.chips.column_names else None
    if names is None or len(pc.unique(names.drop_null())) < 2:
        return ""
    split = dataset.lock.spec.split
    is_by_block = split is not None and split.by == "block"
    note = f"Where the chips of each split lie{': blocks of the ground go whole to one' if is_by_block else ''}."
    return _section("Splits", note, _maps(coverage_of(dataset, "split")))


def _maps(maps: Sequence[PlaceMap]) -> str:
    titles = [f"<h3>{escape(one.title)}</h3>" if len(maps) > 1 else "" for one in maps]
    cards = [f'<div class="card map">{title}{one.svg}</div>' for title, one in zip(titles, maps, strict=True)]
    return f'<div class="maps">{"".join(cards)}</div>'


def _sheets(samples: Sequence[Sample]) -> str:
    cards = []
    for sample in samples:
        sheet = sample.sheet()
        name = escape(sample.collection)
        cards.append(
            f'<article class="card sheet"><header><h3>{name}</h3><small>{escape(sheet.text)}</small></header>'
            f'<img src="{png_uri(sheet.png)}" alt="Contact sheet of {name}"></article>'
        )
    one = " one" if len(cards) == 1 else ""
    note = "A few chips of each collection, as they are stored; all of a sheet are stretched alike."
    return _section("Contact sheets", note, f'<div class="sheets{one}">{"".join(cards)}</div>')


def _bands(samples: Sequence[Sample]) -> str:
    """Histograms of the bands of all collections."""
    cards = []
    for sample in samples:
        charts = "".join(_band(name, histogram) for name, histogram in sample.histograms().items())
        head = (
            f"<header><h3>{escape(sample.collection)}</h3><small>values of {len(sample.chips)} chips</small></header>"
        )
        cards.append(f'<article class="card values">{head}<div class="bands">{charts}</div></article>')
    note = (
        "Bars are pixels of a few chips (square-root scale); the dashed line is the mean, ± the standard deviation. "
        "The outermost half per cent on either side is not shown."
    )
    return _section("Bands", note, "".join(cards))


def _band(name: str, histogram: Histogram) -> str:
    chart = histogram_svg(histogram, label=name, tone=_BAND_COLOURS.get(name, "var(--map-1)"))
    told = "no measurement"
    if histogram.mean is not None and histogram.std is not None:
        told = f"mean {number_text(histogram.mean)} ± {number_text(histogram.std)}"
    return f"<div><h3>{escape(name)}</h3>{chart}<small>{told}</small></div>"


def _fractions(dataset: Dataset) -> str:
    """Histograms of nodata and cloud, by collection."""
    cells = ['<div class="head">Collection</div><div class="head">Nodata</div><div class="head">Cloud</div>']
    for name in sorted(dataset.lock.bands):
        rows = dataset.chips.filter(pc.equal(dataset.chips["collection"], name))
        if not len(rows):
            continue
        cells.append(f"<div><h3>{escape(name)}</h3><small>{len(rows):,} chips</small></div>")
        for what in ("nodata", "cloud"):
            histogram = Histogram.of(rows[f"{what}_fraction"])
            chart = histogram_svg(histogram, label=f"{name} {what}", tone=f"var(--{what})")
            cells.append(f'<div data-label="{what.capitalize()}">{chart}<small>{_mean_of(histogram)}</small></div>')
    note = (
        "Share of each chip without a measurement, and share of its valid pixels under cloud. Bars are chips "
        "(square-root scale); the dashed line is the mean."
    )
    return _section("Fractions", note, f'<div class="card fractions">{"".join(cells)}</div>')


def _mean_of(histogram: Histogram) -> str:
    if histogram.mean is None:
        return f"unknown for all {histogram.unknown:,} chips"
    unknown = f", unknown for {histogram.unknown:,} chips without a valid pixel" if histogram.unknown else ""
    return f"mean {histogram.mean:.1%}{unknown}"


def _lock(dataset: Dataset) -> str:
    lock = dataset.lock
    facts = {
        "Made of": f"<code>{escape(str(lock.index))}</code>",
        "Index sha256": f"<code>{escape(lock.index.sha256)}</code>",
        "Spec sha256": f"<code>{escape(lock.spec_sha256)}</code>",
        "Bands": escape("; ".join(f"{name}: {', '.join(names)}" for name, names in sorted(lock.bands.items()))),
        "Pixels": escape(f"{lock.radiometry}; resampling {lock.spec.resampling}; seed {lock.spec.seed}"),
        "Written by": escape(", ".join(f"{name} {version}" for name, version in sorted(lock.libraries.items()))),
    }
    listed = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in facts.items())
    written = [shard for shard in lock.shards if shard.key is not None]
    rows = [
        f'<tr><td><code>{escape((shard.key or "").rpartition("/")[2])}</code></td><td class="n">{shard.chips:,}</td>'
        f'<td class="n">{size_text(shard.size)}</td><td><code>{escape((shard.sha256 or "")[:12])}…</code></td></tr>'
        for shard in written[:SHARDS_SHOWN]
    ]
    if more := len(written) - len(rows):
        rows.append(f'<tr><td colspan="4">and {more:,} more</td></tr>')
    shards = _table(("Shard", "Chips", "Size", "sha256"), rows, numbers=("Chips", "Size"))
    note = "The lock says what the dataset was made from, exactly: the same lock gives the same pixels."
    return _section("Lock", note, f'<div class="pair"><div class="card"><dl>{listed}</dl></div>{shards}</div>')


def _failures(dataset: Dataset) -> str:
    """The first chips that could not be read."""
    failures = dataset.failures.select(["chip_id", "reason"]).slice(0, FAILURES_SHOWN).to_pylist()
    if not failures:
        return ""
    rows = [
        f'<tr><td><code>{escape(one["chip_id"])}</code></td><td class="wide">{escape(one["reason"])}</td></tr>'
        for one in failures
    ]
    if more := dataset.failures.num_rows - len(rows):
        rows.append(f'<tr><td colspan="2">and {more:,} more: the table of chips lists all</td></tr>')
    return _section("Could not be read", "The rest was written.", _table(("Chip", "Reason"), rows))


def _table(columns: Iterable[str], rows: Iterable[str], numbers: Sequence[str] = ()) -> str:
    classes = {name: ' class="n"' if name in numbers else "" for name in columns}
    heads = "".join(f"<th{css}>{name}</th>" for name, css in classes.items())
    return f'<div class="card scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _section(title: str, note: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>\n{content}</section>'
