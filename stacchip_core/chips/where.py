"""`where`: a condition over the columns of the index, written like Python, never run as Python.

The text is parsed, each part is checked against the few that are known here, and what is left becomes a filter of
pyarrow. Nulls count as in SQL: a comparison with null is neither true nor false, `and`, `or` and `not` carry that on,
and only rows for which the whole is true are taken.
"""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_, or_

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stacchip_core.errors import InputError, SpecError
from stacchip_core.sources.interval import parse_span

_DEPTH = 40  # of nesting; people write 5
_LISTED = 1000  # values after `in`
_TIME = pa.timestamp("us", tz="UTC")

Kind = str  # "number", "text", "boolean" or "time"

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_ARITHMETIC: dict[type[ast.operator], Callable[[ds.Expression, ds.Expression], ds.Expression]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_OF_TIME = {
    "year": pc.year,
    "month": pc.month,
    "day": pc.day,
    "hour": pc.hour,
    "day_of_year": pc.day_of_year,
}
_OF_TEXT = {"startswith": pc.starts_with, "endswith": pc.ends_with, "contains": pc.match_substring}
FUNCTIONS = ("column", "abs", "lower", *_OF_TIME, *_OF_TEXT)


def check_where(text: str) -> None:
    """Refuse what is no condition, as far as that can be told without the columns.

    Raises:
        SpecError: says what was found, and what may stand there.
    """
    _Reader(None).condition(_parse(text))


def where_filter(text: str, schema: pa.Schema) -> ds.Expression:
    """The condition as a filter over the columns of a table.

    A number that is compared with a float32 column is rounded to float32 first, so that 0.2 equals 0.2; otherwise
    numbers are float64. A text that is compared with a time is a time, as in `datetime`: a day or month stands for all
    of it.

    Raises:
        SpecError: no such column, function or operator, or types that don't go together.
    """
    return _Reader(schema).condition(_parse(text))


@dataclass(frozen=True, slots=True)
class _Value:
    """A part of the condition: its type, the filter, and the Python value where it is written out."""

    kind: Kind
    expression: ds.Expression
    words: str
    literal: str | float | bool | None = None
    is_float32: bool = False

    @property
    def is_literal(self) -> bool:
        return self.literal is not None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns parts of a parsed condition into filters; without a schema, only checks them."""

    schema: pa.Schema | None

    def condition(self, node: ast.expr) -> ds.Expression:
        return self._boolean(node, 0)

    def _boolean(self, node: ast.expr, depth: int) -> ds.Expression:
        value = self._value(node, depth)
        if value.kind not in ("boolean", "any"):
            raise SpecError(f"where: {value.words} is a {value.kind}, not a condition; compare it with something")
        return value.expression

    def _value(self, node: ast.expr, depth: int) -> _Value:
        if depth > _DEPTH:
            raise SpecError(f"where: nested more than {_DEPTH} deep; write it in fewer parts")
        readers: dict[type[ast.expr], Callable[..., _Value]] = {
            ast.BoolOp: self._all_or_any,
            ast.UnaryOp: self._signed,
            ast.BinOp: self._computed,
            ast.Compare: self._compared,
            ast.Call: self._called,
            ast.Name: self._named,
            ast.Constant: self._constant,
        }
        reader = readers.get(type(node))
        if reader is None:
            raise SpecError(
                f"where: {_words(node)!r} can't stand there; there are columns, numbers, texts, comparisons, "
                f"`in (...)`, `is None`, and, or, not, + - * /, and {', '.join(FUNCTIONS)}"
            )
        return reader(node, depth + 1)

    def _all_or_any(self, node: ast.BoolOp, depth: int) -> _Value:
        join = and_ if isinstance(node.op, ast.And) else or_
        parts = [self._boolean(value, depth) for value in node.values]
        return _Value("boolean", reduce(join, parts), _words(node))

    def _signed(self, node: ast.UnaryOp, depth: int) -> _Value:
        if isinstance(node.op, ast.Not):
            return _Value("boolean", ~self._boolean(node.operand, depth), _words(node))
        if not isinstance(node.op, ast.USub | ast.UAdd):
            raise SpecError(f"where: {_words(node)!r}: there is no such operator; use not")
        value = self._number(node.operand, depth)
        if isinstance(node.op, ast.UAdd):
            return value
        if isinstance(value.literal, float):
            return _number(-value.literal, _words(node))
        return _Value("number", pc.negate(value.expression), _words(node))

    def _computed(self, node: ast.BinOp, depth: int) -> _Value:
        operation = _ARITHMETIC.get(type(node.op))
        if operation is None:
            raise SpecError(f"where: {_words(node)!r}: there are + - * / to compute with; join conditions by and, or")
        left, right = self._number(node.left, depth), self._number(node.right, depth)
        return _Value("number", operation(_float64(left), _float64(right)), _words(node))

    def _compared(self, node: ast.Compare, depth: int) -> _Value:
        sides = [node.left, *node.comparators]
        parts = [
            self._comparison(left, operator, right, depth)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return _Value("boolean", reduce(and_, parts), _words(node))

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr, depth: int) -> ds.Expression:
        if isinstance(operator, ast.Is | ast.IsNot):
            return self._null_test(left, operator, right, depth)
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._listed(left, right, depth)
            return found if isinstance(operator, ast.In) else ~found
        if any(isinstance(side, ast.Constant) and side.value is None for side in (left, right)):
            raise SpecError("where: nothing equals None; write `is None` or `is not None`")
        return _comparison(self._value(left, depth), _COMPARISONS[type(operator)], self._value(right, depth))

    def _null_test(self, left: ast.expr, operator: ast.cmpop, right: ast.expr, depth: int) -> ds.Expression:
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise SpecError(f"where: `is {_words(right)}`: only `is None` and `is not None`; otherwise write ==")
        expression = self._value(left, depth).expression
        return expression.is_null() if isinstance(operator, ast.Is) else expression.is_valid()

    def _listed(self, left: ast.expr, right: ast.expr, depth: int) -> ds.Expression:
        value = self._value(left, depth)
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not 1 <= len(right.elts) <= _LISTED:
            raise SpecError(f"where: after `in` come 1 to {_LISTED} values, such as (1, 2), not {_words(right)!r}")
        listed = [self._value(element, depth) for element in right.elts]
        if value.kind == "time":
            raise SpecError(f"where: {value.words} is a time, which `in` does not look up; compare it")
        for element in listed:
            if not element.is_literal:
                raise SpecError(f"where: after `in` come numbers or texts, {element.words} is none")
            if "any" not in (value.kind, element.kind) and element.kind != value.kind:
                raise SpecError(_mismatch(value, element))
        kind = pa.float32() if value.is_float32 else None
        found = value.expression.isin(pa.array([element.literal for element in listed], kind))
        return pc.if_else(value.expression.is_valid(), found, pa.scalar(None, pa.bool_()))

    def _called(self, node: ast.Call, depth: int) -> _Value:
        name = node.func.id if isinstance(node.func, ast.Name) else _words(node.func)
        if name not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            raise SpecError(f"where: there is no function {name!r}{_close(name, FUNCTIONS)} there are {known}")
        count = 2 if name in _OF_TEXT else 1
        if node.keywords or len(node.args) != count:
            raise SpecError(f"where: {name} takes {count} value{'s' * (count > 1)}: {_words(node)!r}")
        if name == "column":
            return self._column(_text(node.args[0], name))
        if name == "abs":
            return _Value("number", pc.abs(_float64(self._number(node.args[0], depth))), _words(node))
        value = self._value(node.args[0], depth)
        wanted = "time" if name in _OF_TIME else "text"
        if value.kind not in (wanted, "any"):
            raise SpecError(f"where: {name} takes a {wanted}, {value.words} is a {value.kind}")
        if name in _OF_TIME:
            return _Value("number", _OF_TIME[name](value.expression).cast(pa.float64()), _words(node))
        if name == "lower":
            return _Value("text", pc.utf8_lower(value.expression), _words(node))
        return _Value("boolean", _OF_TEXT[name](value.expression, _text(node.args[1], name)), _words(node))

    def _named(self, node: ast.Name, depth: int) -> _Value:
        return self._column(node.id)

    def _column(self, name: str) -> _Value:
        if self.schema is None:
            return _Value("any", pc.field(name), name)
        kinds = {field.name: _kind(field.type) for field in self.schema}
        kind = kinds.get(name)
        if kind is None:
            usable = sorted(key for key, value in kinds.items() if value)
            raise SpecError(
                f"where: there is no column {name!r}{_close(name, usable)} columns are {', '.join(usable)} "
                "(column('eo:cloud_cover') names one with a colon)"
            )
        of_32 = pa.types.is_float32(self.schema.field(name).type)
        expression = pc.field(name)
        if kind == "number" and not of_32:
            expression = expression.cast(pa.float64())
        return _Value(kind, expression, name, is_float32=of_32)

    def _constant(self, node: ast.Constant, depth: int) -> _Value:
        value = node.value
        if isinstance(value, bool):
            return _Value("boolean", pc.scalar(value), str(value), value)
        if isinstance(value, str):
            return _Value("text", pc.scalar(value), repr(value), value)
        if isinstance(value, int | float):
            try:
                return _number(float(value), _words(node))
            except OverflowError as err:
                raise SpecError(f"where: {_words(node)[:40]} is too large a number") from err
        raise SpecError(f"where: {_words(node)!r} is neither a number nor a text")

    def _number(self, node: ast.expr, depth: int) -> _Value:
        value = self._value(node, depth)
        if value.kind not in ("number", "any"):
            raise SpecError(f"where: {value.words} is a {value.kind}, not a number to compute with")
        return value


def _comparison(left: _Value, operator: str, right: _Value) -> ds.Expression:
    if left.is_literal and not right.is_literal:
        left, operator, right = right, _MIRRORED[operator], left
    kinds = {left.kind, right.kind}
    if "any" in kinds:  # only checked so far
        return pc.scalar(True)
    if kinds == {"time", "text"} and isinstance(right.literal, str):
        return _compare_time(left, operator, right.literal)
    if len(kinds) > 1:
        raise SpecError(_mismatch(left, right))
    if left.is_float32 and right.is_literal:
        right = replace(right, expression=pc.scalar(pa.scalar(right.literal, pa.float32())))
    elif left.kind == "number":
        left, right = (replace(side, expression=_float64(side)) for side in (left, right))
    return _apply(left.expression, operator, right.expression)


def _compare_time(left: _Value, operator: str, text: str) -> ds.Expression:
    """A span of time: from its first moment on, up to its last, within it, or not."""
    try:
        first, last = (pc.scalar(pa.scalar(moment, _TIME)) for moment in parse_span(text))
    except InputError as err:
        raise SpecError(f"where: {left.words} {operator} {text!r}: {err}") from err
    if operator in ("==", "!="):
        within = (left.expression >= first) & (left.expression <= last)
        return within if operator == "==" else ~within
    return _apply(left.expression, operator, first if operator in ("<", ">=") else last)


def _apply(left: ds.Expression, operator: str, right: ds.Expression) -> ds.Expression:
    applied: Mapping[str, Callable[[], ds.Expression]] = {
        "<": lambda: left < right,
        "<=": lambda: left <= right,
        ">": lambda: left > right,
        ">=": lambda: left >= right,
        "==": lambda: left == right,
        "!=": lambda: left != right,
    }
    return applied[operator]()


def _parse(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():  # Python's parser has opinions on style
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        place = f" at {text.strip()[max((err.offset or 1) - 1, 0) :][:20]!r}" if isinstance(err, SyntaxError) else ""
        hint = "; column('eo:cloud_cover') names a column with a colon" if ":" in text else ""
        hint += "; equal is written ==" if re.search(r"[^<>=!]=[^=]", text) else ""
        raise SpecError(f"where: not a condition{place}: {text[:80]!r}{hint}") from err


def _kind(type_: pa.DataType) -> Kind | None:
    tests: dict[Kind, Sequence[Callable[[pa.DataType], bool]]] = {
        "number": (pa.types.is_integer, pa.types.is_floating),
        "text": (pa.types.is_string, pa.types.is_large_string),
        "boolean": (pa.types.is_boolean,),
        "time": (pa.types.is_timestamp,),
    }
    return next((kind for kind, of in tests.items() if any(test(type_) for test in of)), None)


def _number(value: float, words: str) -> _Value:
    return _Value("number", pc.scalar(value), words, value)


def _float64(value: _Value) -> ds.Expression:
    return value.expression.cast(pa.float64()) if value.is_float32 else value.expression


def _text(node: ast.expr, function: str) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise SpecError(f"where: {function} takes a text in quotes, {_words(node)!r} is none")


def _mismatch(left: _Value, right: _Value) -> str:
    return f"where: {left.words} is a {left.kind} and {right.words} is a {right.kind}; they can't be compared"


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ";"


def _words(node: ast.AST) -> str:
    try:
        text = ast.unparse(node)
    except (ValueError, RecursionError):
        return type(node).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
