"""YAML as configuration is written in: plain values, each key once, and whatever else is told with its place."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stacchip_core.sources.yaml_text import read_mapping, read_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner))


@given(VALUES)
def test_what_was_written_is_read(value: Any) -> None:
    assert read_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: 1\nbands: 2\nsize: 3", "key 'size' is written twice, in line 3 too"),
        ("split: {train: 1, train: 2}", "key 'train' is written twice"),
        ("[{a: 1}, {a: 1, a: 1}]", "key 'a' is written twice"),
        ("datetime: 2024-02-31", "day is out of range for month"),
        ("a: [1", "not YAML"),
        ("a: \x00", "not YAML"),
        (f"a: \x00{'[' * 200}", "not YAML"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("[" * 100_000, "recursion"),
        ("- " * 100_000, "recursion"),
        ("{a: " * 100_000, "recursion"),
    ],
)
def test_what_is_none_is_told_on_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)


def test_aliases_and_merges_may_say_a_key_again() -> None:
    text = "base: &base {size: 1, seed: 2}\none: {<<: *base, size: 3}\ntwo: *base\nring: &ring [*ring]"
    found = read_yaml(text)
    assert found["one"] == {"size": 3, "seed": 2}
    assert found["two"] == found["base"]
    assert found["ring"][0] is found["ring"]


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), ("[1]", "list"), ("hello", "str")])
def test_a_file_holds_keys_and_values(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"expected keys and values, found {found}"):
        read_mapping(text)
