"""YAML (and so JSON) as people write it for configuration: plain values only, no key twice."""

from __future__ import annotations

from typing import Any

import yaml

# libyaml's safe loader where it was built in: ten profiles in 15 ms instead of 120. It recurses in C without a guard.
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 100  # brackets opened in a file that is given to it, more than any configuration has
_NO_FILE = ' in "<unicode string>",'
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str) -> Any:
    """The value of a YAML document; None of an empty one.

    Raises:
        ValueError: not YAML, a key is written twice in one mapping, or a date is none; on one line, with the place.
    """
    is_flat = sum(map(text.count, "[{")) <= _DEEPEST and text.count("- -") <= _DEEPEST
    try:
        loader = (_FAST if is_flat else yaml.SafeLoader)(text)
        node = loader.get_single_node()
        _refuse_twice(node)
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as err:
        raise ValueError(f"not YAML: {' '.join(str(err).replace(_NO_FILE, '').split())}") from err


def read_mapping(text: str) -> dict[str, Any]:
    """Keys and values of a YAML document.

    Raises:
        ValueError: see `read_yaml`; or it holds something else.
    """
    found = read_yaml(text)
    if not isinstance(found, dict):
        raise ValueError(f"expected keys and values, found {'nothing' if found is None else type(found).__name__}")
    return found


def _refuse_twice(top: yaml.Node | None) -> None:
    """The last of two values would count, and the other be lost without a word."""
    seen, waiting = set[int](), [top]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias, perhaps in a ring
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set[tuple[str, str]]()
            for key, value in node.value:
                waiting += [key, value]
                if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                    continue
                if (key.tag, key.value) in keys:
                    raise ValueError(f"key {key.value!r} is written twice, in line {key.start_mark.line + 1} too")
                keys.add((key.tag, key.value))
