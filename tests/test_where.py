"""`where`: chooses what DuckDB chooses with the same condition in SQL; runs nothing; says what is wrong."""

from __future__ import annotations

import sys
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacchip_core import SpecError
from stacchip_core.chips.where import check_where, where_filter
from tests.chip_rows import TABLE

rng = np.random.default_rng(4)
ROWS = TABLE.num_rows
EXTRA = {
    "platform": pa.array([["sentinel-2a", "sentinel-2b", None][n] for n in rng.integers(0, 3, ROWS)], pa.string()),
    "eo:cloud_cover": pa.array([None if n % 7 == 0 else float(n % 101) for n in range(ROWS)], pa.float64()),
    "applied": pa.array([[True, False, None][n % 3] for n in range(ROWS)], pa.bool_()),
}
COLUMNS = ["chip_id", "collection", "datetime", "start_datetime", "size_px", "cloud_fraction", "snow_fraction"]
WIDE = TABLE.select(COLUMNS)
for name, column in EXTRA.items():
    WIDE = WIDE.append_column(name, column)
DATASET = ds.dataset(WIDE)
DUCK = duckdb.connect()
DUCK.execute("SET TimeZone = 'UTC'")
DUCK.register("chips", WIDE)

Pair = tuple[str, str]  # the condition, and the same in SQL

NUMBERS = st.sampled_from([0.0, 0.2, 0.5, 1.0, 20.0, 50.5, 256.0])
COMPARISONS = st.sampled_from([("<", "<"), ("<=", "<="), (">", ">"), (">=", ">="), ("==", "="), ("!=", "<>")])
FRACTIONS = st.sampled_from(["cloud_fraction", "snow_fraction"])
TEXTS = st.sampled_from(["sentinel-2a", "sentinel-2b", "modis-09a1", "x'y", ""])
TEXT_COLUMNS = st.sampled_from(["platform", "collection"])
TIMES = st.sampled_from(["datetime", "start_datetime"])


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@st.composite
def numbers(draw: st.DrawFn, depth: int = 2) -> Pair:
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind == 0:
        value = draw(NUMBERS)
        return repr(value), f"{value!r}::DOUBLE"
    if kind == 1:
        name = draw(FRACTIONS)
        return name, f"{name}::DOUBLE"
    if kind == 2:
        return "size_px", "size_px::DOUBLE"
    if kind == 3:
        part, of = draw(st.sampled_from(["year", "month", "day", "hour", "day_of_year"])), draw(TIMES)
        sql = "dayofyear" if part == "day_of_year" else part
        return f"{part}({of})", f"{sql}({of})::DOUBLE"
    left, right = draw(numbers(depth - 1)), draw(numbers(depth - 1))
    if kind == 4:
        operator = draw(st.sampled_from("+-*"))
        return f"({left[0]} {operator} {right[0]})", f"({left[1]} {operator} {right[1]})"
    return f"abs(-{left[0]})", f"abs(-{left[1]})"


@st.composite
def comparisons(draw: st.DrawFn) -> Pair:  # noqa: PLR0911
    kind = draw(st.integers(0, 9))
    ours, sql = draw(COMPARISONS)
    if kind == 0:  # as thresholds do: the number in the column's own type
        column, value = draw(FRACTIONS), draw(NUMBERS)
        return f"{column} {ours} {value}", f"{column} {sql} {value}::FLOAT"
    if kind == 1:
        column, value = draw(FRACTIONS), draw(NUMBERS)
        return f"{value} {ours} {column}", f"{value}::FLOAT {sql} {column}"
    if kind == 2:
        column, text = draw(TEXT_COLUMNS), draw(TEXTS)
        return f"{column} {ours} {text!r}", f"{column} {sql} {quoted(text)}"
    if kind == 3:
        column, texts = draw(TEXT_COLUMNS), draw(st.lists(TEXTS, min_size=1, max_size=3))
        negated = draw(st.sampled_from(["", "not "]))
        listed = "".join(f"{text!r}, " for text in texts)
        return f"{column} {negated}in ({listed})", f"{column} {negated}in ({', '.join(map(quoted, texts))})"
    if kind == 4:
        column = draw(st.sampled_from(["platform", "snow_fraction", "start_datetime", "applied"]))
        negated = draw(st.sampled_from(["", "not "]))
        return f"{column} is {negated}None", f"{column} is {negated}null"
    if kind == 5:
        negated = draw(st.sampled_from(["", "not "]))
        return f"{negated}applied", f"({negated}applied)"
    if kind == 6:
        value = draw(NUMBERS)
        return f"column('eo:cloud_cover') {ours} {value}", f'"eo:cloud_cover" {sql} {value}::DOUBLE'
    if kind == 7:
        function, text = draw(st.sampled_from(["startswith", "endswith", "contains"])), draw(TEXTS)
        sql_function = {"startswith": "starts_with", "endswith": "ends_with"}.get(function, function)
        return f"{function}(lower(platform), {text!r})", f"{sql_function}(lower(platform), {quoted(text)})"
    if kind == 8:
        column, of = draw(TIMES), draw(st.sampled_from(["2024-03", "2024-06-05", "2024-07-01T12:00:00Z"]))
        return f"{column} {ours} {of!r}", time_in_sql(column, ours, of)
    left, right = draw(numbers()), draw(numbers())
    if left[0] in ("cloud_fraction", "snow_fraction") or right[0] in ("cloud_fraction", "snow_fraction"):
        return f"{left[0]} * 1 {ours} {right[0]} * 1", f"{left[1]} * 1 {sql} {right[1]} * 1"
    return f"{left[0]} {ours} {right[0]}", f"{left[1]} {sql} {right[1]}"


SPANS = {
    "2024-03": ("2024-03-01 00:00:00", "2024-03-31 23:59:59.999999"),
    "2024-06-05": ("2024-06-05 00:00:00", "2024-06-05 23:59:59.999999"),
    "2024-07-01T12:00:00Z": ("2024-07-01 12:00:00", "2024-07-01 12:00:00"),
}


def time_in_sql(column: str, operator: str, text: str) -> str:
    first, last = (f"TIMESTAMPTZ '{end} UTC'" for end in SPANS[text])
    within = f"{column} BETWEEN {first} AND {last}"
    return {
        "<": f"{column} < {first}",
        "<=": f"{column} <= {last}",
        ">": f"{column} > {last}",
        ">=": f"{column} >= {first}",
        "==": f"({within})",
        "!=": f"NOT ({within})",
    }[operator]


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> Pair:
    kind = draw(st.integers(0, 3 if depth else 0))
    if kind == 0:
        return draw(comparisons())
    if kind == 1:
        ours, sql = draw(conditions(depth - 1))
        return f"not ({ours})", f"NOT ({sql})"
    joint = draw(st.sampled_from(["and", "or"]))
    parts = [draw(conditions(depth - 1)) for _ in range(draw(st.integers(2, 3)))]
    return tuple(f" {joint} ".join(f"({part[place]})" for part in parts) for place in (0, 1))  # type: ignore[return-value]


@settings(max_examples=250, deadline=None)
@given(conditions())
def test_chooses_what_sql_chooses(pair: Pair) -> None:
    ours, sql = pair
    check_where(ours)
    found = DATASET.to_table(filter=where_filter(ours, WIDE.schema), columns=["chip_id"])["chip_id"].to_pylist()
    expected = [row[0] for row in DUCK.execute(f"SELECT chip_id FROM chips WHERE {sql}").fetchall()]
    assert sorted(found) == sorted(expected)


def test_null_is_neither_true_nor_false() -> None:
    def count(where: str) -> int:
        return int(DATASET.count_rows(filter=where_filter(where, WIDE.schema)))

    nulls = WIDE["snow_fraction"].null_count
    assert nulls > 0
    assert count("snow_fraction < 0.5") + count("not snow_fraction < 0.5") + nulls == ROWS
    assert count("snow_fraction < 0.5 or snow_fraction is None") == count("snow_fraction < 0.5") + nulls
    assert count("platform not in ('sentinel-2a',)") == count("platform == 'sentinel-2b'")


def test_a_chain_of_comparisons_is_all_of_them() -> None:
    chained, spelt = (
        DATASET.count_rows(filter=where_filter(where, WIDE.schema))
        for where in ("0.1 < cloud_fraction <= 0.5", "cloud_fraction > 0.1 and cloud_fraction <= 0.5")
    )
    assert chained == spelt > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "snow_fractoin < 0.1",
            r"there is no column 'snow_fractoin', did you mean 'snow_fraction'\? columns are applied",
        ),
        ("eo_cloud_cover < 9", r"there is no column 'eo_cloud_cover', did you mean 'eo:cloud_cover'\?"),
        ("eo:cloud_cover < 9", r"not a condition at ':cloud_cover < 9'.*column\('eo:cloud_cover'\) names a column"),
        ("column(platform) == 'x'", r"column takes a text in quotes, 'platform' is none"),
        ("cloud_fraction", r"cloud_fraction is a number, not a condition; compare it with something"),
        ("cloud_fraction < 'x'", r"cloud_fraction is a number and 'x' is a text; they can't be compared"),
        ("platform < 3", r"platform is a text and 3 is a number"),
        ("applied > 3", r"applied is a boolean and 3 is a number"),
        ("datetime > 'soon'", r"datetime > 'soon': 'soon' is no time; write 2024, 2024-06"),
        ("datetime in ('2024',)", r"datetime is a time, which `in` does not look up; compare it"),
        ("month(platform) == 6", r"month takes a time, platform is a text"),
        ("mnoth(datetime) == 6", r"there is no function 'mnoth', did you mean 'month'\?"),
        ("month(datetime, 2) == 6", r"month takes 1 value: "),
        ("contains(platform) == 6", r"contains takes 2 values: "),
        ("lower(text=platform) == 'x'", r"lower takes 1 value"),
        ("platform + 'a' == 'b'", r"platform is a text, not a number to compute with"),
        ("size_px ** 2 > 3", r"there are \+ - \* / to compute with"),
        ("size_px & 2", r"there are \+ - \* / to compute with; join conditions by and, or"),
        ("~applied", r"there is no such operator; use not"),
        ("platform == None", r"nothing equals None; write `is None` or `is not None`"),
        ("platform is 'a'", r"only `is None` and `is not None`; otherwise write =="),
        ("size_px in 3", r"after `in` come 1 to 1000 values, such as \(1, 2\), not '3'"),
        ("size_px in ()", r"after `in` come 1 to 1000 values"),
        ("size_px in (platform,)", r"after `in` come numbers or texts, platform is none"),
        ("size_px in ('a',)", r"size_px is a number and 'a' is a text"),
        ("1 <", r"not a condition at .*'1 <'"),
        ("size_px == 3; import os", r"not a condition"),
        ("", r"not a condition"),
        ("9" * 400 + " > size_px", r"is too large a number"),
        ("b'x' == platform", r"neither a number nor a text"),
        ("not " * 60 + "applied", r"nested more than 40 deep"),
        ("(" * 500 + "1" + ")" * 500, r"not a condition"),
        ("\x00", r"not a condition"),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=rf"where: .*{message}"):
        where_filter(text, WIDE.schema)


HOSTILE = [
    "__import__('os').system('touch /tmp/x')",
    "open('/etc/passwd').read() == ''",
    "(lambda: 1)() == 1",
    "[x for x in ().__class__.__bases__[0].__subclasses__()] == 1",
    "chip_id.__class__ == 1",
    "f'{chip_id}' == 'x'",
    "chip_id[0] == 'x'",
    "(y := 3) == 3",
    "exec('1') == 1",
    "column('chip_id').__class__ == 1",
    "{**{}} == 1",
    "await x == 1",
    "(yield) == 1",
    "1 if applied else 2",
    "... == 1",
    "1j == 1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="where: "):
        check_where(text)
    with pytest.raises(SpecError, match="where: "):
        where_filter(text, WIDE.schema)


WORDS = (
    "chip_id size_px cloud_fraction column abs month ( ) [ ] { } . , : ; = == < + - * / not and or in is None True "
    "lambda if else for await yield import os exec eval __class__ __import__ 'a' \"b\" 1 0.5 1e999 @ # \\ \n ~ ** % "
    ":= f''"
)
PIECES = st.sampled_from(WORDS.split(" "))
_watched: list[str] = []
_is_watching = False


def _watch(event: str, _: object) -> None:
    if _is_watching and event in ("exec", "os.system"):
        _watched.append(event)


sys.addaudithook(_watch)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=12).map(" ".join), st.text(max_size=40)))
def test_any_text_is_a_filter_or_a_spec_error_and_never_runs(text: str) -> None:
    global _is_watching  # noqa: PLW0603
    _watched.clear()
    _is_watching = True
    expression: Any = None
    try:
        expression = where_filter(text, WIDE.schema)
    except SpecError as err:
        assert str(err).startswith("where: ")
    finally:
        _is_watching = False
    assert not _watched
    if expression is not None:
        DATASET.count_rows(filter=expression)  # and it fits the columns
