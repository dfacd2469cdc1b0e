"""Projections: JMESPath expressions that leave of an answer what a model needs. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

from registry.core.json import JsonValue

MAX_CHARACTERS = 1_000
MAX_GROWTH = 16
"""How many times an expression may contain its input in its result."""

ALTERNATIVES = frozenset({"multi_select_list", "multi_select_dict", "function_expression"})
"""Nodes whose children all get the same input, so that their results add up."""

LEADING = 50
"""How deep the first step of an expression is looked for."""


class ProjectionError(ValueError):
    """An expression cannot be used, or not with this answer."""


class Projection:
    """A compiled expression.

    Args:
        expression: In JMESPath.

    Raises:
        ProjectionError: It is no expression, or could make much of little.
    """

    __slots__ = ("_compiled",)

    def __init__(self, expression: str) -> None:
        if len(expression) > MAX_CHARACTERS:
            raise ProjectionError(f"is longer than {MAX_CHARACTERS} characters")
        try:
            self._compiled = jmespath.compile(expression)
            growth = _growth(dict(self._compiled.parsed))
        except (JMESPathError, RecursionError) as exc:
            # The first line: the others point into the expression.
            raise ProjectionError(f"is no JMESPath: {str(exc).partition(chr(10))[0]}") from None
        if growth > MAX_GROWTH:
            raise ProjectionError("repeats its input too often")

    def of(self, value: JsonValue, max_bytes: int) -> JsonValue:
        """Return what the expression finds in *value*.

        Raises:
            ProjectionError: It does not fit: a function got what it cannot take, or the result is
                longer than *max_bytes*.
        """
        try:
            found: JsonValue = self._compiled.search(value)
        except (JMESPathError, RecursionError, ArithmeticError, TypeError, ValueError) as exc:
            raise ProjectionError(f"does not fit: {str(exc).partition(chr(10))[0]}") from None
        if _is_longer(found, max_bytes):
            raise ProjectionError(f"leaves more than {max_bytes} bytes")
        return found


def _growth(node: Mapping[str, Any]) -> int:
    """Return how many times an expression may contain its input in its result.

    Results of alternatives add up, but for members of different names, which share the input;
    those of steps, one after the other, multiply.
    """
    children = [child for child in node["children"] if isinstance(child, dict)]
    is_applied = any(child["type"] == "expref" for child in children)
    if node["type"] in ALTERNATIVES and not is_applied:
        by_member: Counter[str | None] = Counter()
        for child in children:
            by_member[_first_member(child)] += _growth(child)
        whole = by_member.pop(None, 0)
        return max(1, whole + max(by_member.values(), default=0))
    product = 1
    for child in children:
        product = min(product * _growth(child), MAX_GROWTH + 1)
    return product


def _first_member(node: Mapping[str, Any]) -> str | None:
    """Return the member that an expression begins with; None if it is another beginning."""
    for _ in range(LEADING):
        match node:
            case {"type": "field", "value": str(name)}:
                return name
            case {"type": "key_val_pair" | "subexpression" | "index_expression" | "pipe"} | {
                "type": "projection" | "value_projection" | "filter_projection" | "flatten"
            } if node["children"]:
                node = node["children"][0]
            case _:
                return None
    return None


def _is_longer(value: JsonValue, max_bytes: int) -> bool:
    """Whether the text of *value* is longer, looked at no further than that."""
    left = max_bytes
    waiting = [value]
    while waiting and left >= 0:
        match waiting.pop():
            case str(text):
                left -= len(text) + 2
            case list(items):
                left -= len(items) + 2
                if left >= 0:
                    waiting += items
            case dict(pairs):
                left -= sum(len(name) + 4 for name in pairs) + 2
                if left >= 0:
                    waiting += pairs.values()
            case _:
                left -= 1
    return left < 0
