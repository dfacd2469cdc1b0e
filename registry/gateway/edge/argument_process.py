"""Child process that checks values against JSON Schemas, with limits on time and memory.

Executed as a script by `registry.gateway.edge.arguments`. Below it are the JSON Schema library
and the system's limits: a schema can take any time and memory (references that double at each
level, patterns, recursion over deep arguments), the library holds the interpreter's lock for its
whole run, and nothing inside a process can end that. So it runs here,
where the operating system ends the process.
Knows nothing of the registry.
"""

import contextlib
import os
import resource
import signal
import struct
import sys
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import unquote

import jsonschema_rs
import orjson

HEAD = struct.Struct(">II")
"""Lengths of schema and value; for a reply, its length and whether it is the last one."""

CPU_SECONDS = 0.5
"""Processor time of one check. Checks of real definitions take microseconds."""

MEMORY_BYTES = 512 * 1024 * 1024
"""Address space of the process."""

RETIRING_KIBIBYTES = 160 * 1024
"""A process that ever used this much exits after its reply; its successor starts small."""

NICENESS = 10
KEPT_VALIDATORS = 64
KEPT_BYTES = 4 * 1024 * 1024
PLACE_CHARACTERS = 200
MAX_TOLD = 5
MAX_NAMES_TOLD = 5
MAX_ALLOWED_TOLD = 10
NAME_CHARACTERS = 64
UNCHECKABLE = (
    "they cannot be checked against the tool's definition, which is invalid, refers elsewhere or "
    "takes too long; its server's operators must decide"
)

PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000, size_limit=1024 * 1024)


class Validators:
    """Compiled schemas by their text; cleared when there are many."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Any, frozenset[bytes]]] = {}
        self._bytes = 0

    def of(self, schema: bytes) -> tuple[Any, frozenset[bytes]]:
        """Return the validator of a schema, and the values that are not told.

        Raises:
            ValueError: It cannot be compiled.
        """
        found = self._known.get(schema)
        if found is None:
            whole = orjson.loads(schema)
            found = compiled(whole, PATTERNS), untold_values(whole)
            self._bytes += len(schema)
            if len(self._known) >= KEPT_VALIDATORS or self._bytes > KEPT_BYTES:
                self._known.clear()
                self._bytes = len(schema)
            self._known[schema] = found
        return found


def compiled(schema: Any, patterns: Any) -> Any:
    """Return the validator of a schema, by the draft that it names.

    Formats are annotations, as in the current draft: servers differ in what they take for one.

    Args:
        schema: An object, true or false.
        patterns: Options for regular expressions.

    Raises:
        ValueError: It cannot be compiled.
    """
    options = {"retriever": _nothing, "pattern_options": patterns, "validate_formats": False}
    if isinstance(schema, dict) and not _is_known_draft(schema.get("$schema")):
        # MCP: a schema is of the current draft unless it says otherwise in known words.
        schema = {name: part for name, part in schema.items() if name != "$schema"}
    return jsonschema_rs.validator_for(schema, **options)


def _is_known_draft(named: object) -> bool:
    return isinstance(named, str) and named.partition("#")[0].endswith(
        (
            *("/draft-04/schema", "/draft-06/schema", "/draft-07/schema"),
            *("/draft/2019-09/schema", "/draft/2020-12/schema"),
        )
    )


def problem(validators: Validators, schema: bytes, value: bytes) -> str | None:
    """Return the problems of *value*, without the values in it; None if it is valid."""
    try:
        validator, untold = validators.of(schema)
        return told(validator, orjson.loads(value), untold)
    except (ValueError, RecursionError, OverflowError):
        # What cannot be checked is refused. A ValidationError is a ValueError, too.
        return UNCHECKABLE


def told(validator: Any, value: Any, untold: frozenset[bytes]) -> str | None:
    """Return the first problems of *value* as text: where, which rule, and the type there.

    Args:
        validator: Of the schema.
        value: What is checked; nothing of it is in the text.
        untold: Allowed values that are not named, of `untold_values`.

    Raises:
        ValueError: It cannot be checked.
    """
    problems = [_told(error, untold) for error in islice(validator.iter_errors(value), MAX_TOLD)]
    return "; ".join(problems) or None


def untold_values(schema: Any) -> frozenset[bytes]:
    """Return the allowed values below what is a secret, as JSON: a definition may list some."""
    found: set[bytes] = set()
    seen: set[tuple[int, bool]] = set()
    waiting = [(schema, False)]
    while waiting:
        part, is_secret = waiting.pop()
        if not isinstance(part, dict | list) or (id(part), is_secret) in seen:
            continue
        seen.add((id(part), is_secret))
        if isinstance(part, list):
            waiting += [(one, is_secret) for one in part]
            continue
        if part.get("writeOnly") is True or part.get("format") == "password":
            is_secret = True
        if is_secret:
            if isinstance(part.get("enum"), list):
                found.add(_json(part["enum"]))
            if "const" in part:
                found.add(_json([part["const"]]))
        if isinstance(part.get("$ref"), str):
            waiting.append((_at(schema, part["$ref"]), is_secret))
        waiting += [(one, is_secret) for one in part.values()]
    return frozenset(found)


def _at(schema: Any, reference: str) -> Any:
    """Return what a JSON Pointer into a schema leads to; None if it leads nowhere."""
    found = schema
    for step in unquote(reference).removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict):
            found = found.get(key)
        else:
            return None
    return found


def _json(values: list[Any]) -> bytes:
    # The library may give objects back in another order, and whole numbers without a point.
    same = [int(one) if isinstance(one, float) and one.is_integer() else one for one in values]
    # Beyond 64 bits they are text.
    return orjson.dumps(
        [str(one) if isinstance(one, int) else one for one in same],
        option=orjson.OPT_SORT_KEYS,
        default=str,
    )


def _told(error: Any, untold: frozenset[bytes]) -> str:
    place = "".join(
        "/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.instance_path
    )
    rule = "/".join(map(str, error.schema_path))[:PLACE_CHARACTERS]
    kind = error.kind
    if kind.name == "required":
        details = f"{_named([kind.property])} is missing"
    elif kind.name == "additionalProperties":
        details = f"{_named(kind.unexpected)} is not known"
    else:
        details = f"it is {TYPES.get(type(error.instance), 'a number')}"
        if kind.name == "enum" and _json(kind.options) not in untold:
            details += f"; allowed: {_allowed(kind.options)}"
        elif kind.name == "const" and _json([kind.expected_value]) not in untold:
            details += f"; allowed: {_allowed([kind.expected_value])}"
    return f"{place[:PLACE_CHARACTERS] or '/'} violates {rule} ({details})"


TYPES = {
    type(None): "null",
    bool: "a boolean",
    str: "a string",
    dict: "an object",
    list: "an array",
}


def _named(names: list[str]) -> str:
    shown = ", ".join(str(name)[:NAME_CHARACTERS] for name in names[:MAX_NAMES_TOLD])
    more = len(names) - MAX_NAMES_TOLD
    return f"{shown} and {more} more" if more > 0 else shown


def _allowed(options: list[Any]) -> str:
    shown = ", ".join(_cut(one) for one in options[:MAX_ALLOWED_TOLD])
    more = len(options) - MAX_ALLOWED_TOLD
    return f"{shown} and {more} more" if more > 0 else shown


def _cut(option: Any) -> str:
    text = orjson.dumps(option, default=str).decode()
    return text if len(text) <= NAME_CHARACTERS else f"{text[:NAME_CHARACTERS]}..."


def _nothing(uri: str) -> Any:
    """Retrieve no schema."""
    raise ValueError(f"{uri} is not part of the definition")


def _limit() -> None:
    os.nice(NICENESS)
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        # Not every system has each limit; a timer bounds the processor time in any case.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (most, most))


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the input ends."""
    validators = Validators()
    while len(head := questions.read(HEAD.size)) == HEAD.size:
        schema_bytes, value_bytes = HEAD.unpack(head)
        schema, value = questions.read(schema_bytes), questions.read(value_bytes)
        # Ends the process whatever it is doing, also if its parent has gone.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = orjson.dumps(problem(validators, schema, value))
        signal.setitimer(signal.ITIMER_PROF, 0)
        is_last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > RETIRING_KIBIBYTES
        answers.write(HEAD.pack(len(answer), is_last) + answer)
        answers.flush()


if __name__ == "__main__":
    _limit()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    serve(sys.stdin.buffer, sys.stdout.buffer)
