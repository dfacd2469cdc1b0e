"""Parsing of descriptions: JSON or YAML, by untrusted authors."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Final, cast

import orjson
import yaml

from registry.core.json import JsonObject, JsonValue
from registry.openapi.errors import DescriptionError

MAX_BYTES: Final = 32 * 1024 * 1024
"""The largest known descriptions have 12 MB."""

MAX_YAML_BYTES: Final = 16 * 1024 * 1024
"""YAML takes about a second for each megabyte."""

SMALL_BYTES: Final = 16 * 1024
"""Longer YAML is read by a process of its own: the C library keeps the interpreter for itself."""

MAX_SECONDS: Final = 120.0
"""Longest time for that."""

COMMAND: Final = (sys.executable, "-P", "-m", "registry.openapi.documents")
MAX_DEPTH: Final = 200
MAX_VALUES: Final = 4_000_000
"""Values with all aliases expanded; the largest known descriptions have 700,000."""

ALIASED_VALUES: Final = 100_000
"""Values that aliases may add: it takes seconds to write out millions of them."""

BOOL: Final = "tag:yaml.org,2002:bool"
INT: Final = "tag:yaml.org,2002:int"
FLOAT: Final = "tag:yaml.org,2002:float"
NULL: Final = "tag:yaml.org,2002:null"
TRUE: Final = frozenset({"true", "True", "TRUE"})


class _Loader(yaml.CSafeLoader):
    """The core schema of YAML 1.2: `on` and `no` are texts, and so are dates."""


_Loader.yaml_implicit_resolvers = {}

for _tag, _pattern, _first, _read in (
    (BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF", lambda text: text in TRUE),
    (INT, r"^[-+]?[0-9]+$", "-+0123456789", int),
    (
        FLOAT,
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        "-+.0123456789",
        float,
    ),
    (NULL, r"^(?:~|null|Null|NULL|)$", "~nN", lambda _: None),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), [*_first, ""])

    def _construct(
        loader: yaml.CSafeLoader, node: yaml.ScalarNode, read: Callable[[str], object] = _read
    ) -> object:
        return read(str(loader.construct_scalar(node)))

    _Loader.add_constructor(_tag, _construct)


def load(content: bytes) -> JsonObject:
    """Parse a description.

    Raises:
        DescriptionError: It is neither JSON nor YAML, no object, or too large.
    """
    if len(content) > MAX_BYTES:
        raise DescriptionError("", f"has more than {MAX_BYTES // 2**20} MiB")
    text = content.removeprefix(b"\xef\xbb\xbf")
    value = _json(text) if text.lstrip()[:1] == b"{" else None
    if value is None:
        value = _plain(text) if len(text) <= SMALL_BYTES else _in_a_process(text)
    elif _is_too_deep(value):
        raise DescriptionError("", f"is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(value, dict):
        raise DescriptionError("", "is no object")
    return value


def _json(text: bytes) -> JsonValue:
    """Return the value of a JSON text; None if it is none."""
    try:
        return cast("JsonValue", orjson.loads(text))
    except orjson.JSONDecodeError:
        pass
    try:
        # Numbers beyond 64 bits.
        return cast("JsonValue", json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON.")


def _check_size(text: bytes) -> None:
    if len(text) > MAX_YAML_BYTES:
        raise DescriptionError("", f"is YAML of more than {MAX_YAML_BYTES // 2**20} MiB; use JSON")


def _yaml(text: bytes) -> object:
    try:
        _check_nesting(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, restricted further
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise DescriptionError("", f"is neither JSON nor YAML{where}: {exc.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError):
        raise DescriptionError("", "is neither JSON nor YAML") from None


def _check_nesting(text: bytes) -> None:
    """Refuse YAML that is nested deep before values are made of it.

    The C library makes them by recursion without a bound, which ends the process.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise DescriptionError("", f"is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _is_too_deep(value: JsonValue) -> bool:
    depth, level = 0, [value]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
            if isinstance(inner, dict | list)
        ]
    return False


class _Measure:
    """Measures what a YAML loader made, in which all places of an alias are one object.

    So that what is too large is refused before anything is copied.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, value: object, depth: int = 1) -> tuple[int, int]:
        """Return how many values one stands for, and how deep they are nested.

        Raises:
            DescriptionError: They are too many, or nested too deep.
        """
        if depth > MAX_DEPTH:
            raise DescriptionError("", f"is nested deeper than {MAX_DEPTH} levels")
        if not isinstance(value, dict | list):
            return 1, 1
        found = self._known.get(id(value))
        if found is None:
            # Until it is known, what contains itself is measured on, down to the deepest level.
            count, height = 1, 0
            for one in value.values() if isinstance(value, dict) else value:
                inner, levels = self.of(one, depth + 1)
                count, height = count + inner, max(height, levels)
                if count > self._most:
                    raise DescriptionError(
                        "", f"has more than {self._most:,} values with its aliases"
                    )
            found = self._known[id(value)] = count, height + 1
        if depth + found[1] - 1 > MAX_DEPTH:
            raise DescriptionError("", f"is nested deeper than {MAX_DEPTH} levels")
        return found


def _copied(value: object) -> JsonValue:
    """Return what a YAML loader made as JSON, each place of an alias by itself."""
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {_key(name): _copied(one) for name, one in value.items()}
        case list():
            return [_copied(one) for one in value]
        case bytes():
            return value.decode("latin-1")
        case _:
            raise DescriptionError("", f"holds a {type(value).__name__}, which JSON has not")


def _key(name: object) -> str:
    """Return a member's name; statuses such as `200` are numbers in YAML."""
    match name:
        case bool():
            return "true" if name else "false"
        case None:
            return "null"
        case str() | int() | float():
            return str(name)
        case _:
            raise DescriptionError("", "has a member whose name is no text")


def _plain(text: bytes) -> JsonValue:
    value = _yaml(text)
    # What a text says without aliases is never more than its bytes.
    _Measure(min(MAX_VALUES, len(text) + ALIASED_VALUES)).of(value)
    return _copied(value)


def _in_a_process(text: bytes) -> JsonValue:
    _check_size(text)
    try:
        done = subprocess.run(  # noqa: S603 - no input in the command
            COMMAND, input=text, capture_output=True, timeout=MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DescriptionError("", f"takes more than {MAX_SECONDS:.0f} s to read") from None
    if done.returncode:
        raise DescriptionError("", "is neither JSON nor YAML")
    answer = json.loads(done.stdout)
    if "reason" in answer:
        raise DescriptionError("", answer["reason"])
    return cast("JsonValue", answer["value"])


def _serve_once() -> None:
    """Read YAML from standard input, and write what it says, or why not, as JSON."""
    try:
        answer = {"value": _plain(sys.stdin.buffer.read())}
    except DescriptionError as exc:
        answer = {"reason": exc.reason}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _serve_once()
