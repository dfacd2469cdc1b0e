"""Child process that checks arguments against tool definitions, with limits on time and memory.

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
from typing import Any, BinaryIO

import jsonschema_rs
import orjson

HEAD = struct.Struct(">II")
"""Lengths of definition and arguments; for a reply, its length and whether it is the last one."""

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
UNCHECKABLE = "the approved definition cannot be checked; its server's operators must decide"

PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000, size_limit=1024 * 1024)


class Validators:
    """Compiled schemas by the text of the definition; cleared when there are many."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}
        self._bytes = 0

    def of(self, definition: bytes) -> Any:
        """Return the validator of a tool's `inputSchema`.

        Raises:
            ValueError: It cannot be compiled.
        """
        validator = self._known.get(definition)
        if validator is None:
            schema = orjson.loads(definition).get("inputSchema")
            validator = jsonschema_rs.validator_for(
                schema if isinstance(schema, dict) else {},
                retriever=_nothing,
                pattern_options=PATTERNS,
            )
            self._bytes += len(definition)
            if len(self._known) >= KEPT_VALIDATORS or self._bytes > KEPT_BYTES:
                self._known.clear()
                self._bytes = len(definition)
            self._known[definition] = validator
        return validator


def problem(validators: Validators, definition: bytes, arguments: bytes) -> str | None:
    """Return the first problem of *arguments*, without their values; None if they are valid."""
    try:
        validator = validators.of(definition)
        error = next(validator.iter_errors(orjson.loads(arguments)), None)
    except (ValueError, RecursionError, OverflowError):
        # What cannot be checked is refused. A ValidationError is a ValueError, too.
        return UNCHECKABLE
    if error is None:
        return None
    place = "".join(f"/{part}" for part in error.instance_path) or "/"
    broken = "/".join(map(str, error.schema_path))
    return f"{place[:PLACE_CHARACTERS]} violates {broken[:PLACE_CHARACTERS]}"


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
        definition_bytes, argument_bytes = HEAD.unpack(head)
        definition, arguments = questions.read(definition_bytes), questions.read(argument_bytes)
        # Ends the process whatever it is doing, also if its parent has gone.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = orjson.dumps(problem(validators, definition, arguments))
        signal.setitimer(signal.ITIMER_PROF, 0)
        is_last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > RETIRING_KIBIBYTES
        answers.write(HEAD.pack(len(answer), is_last) + answer)
        answers.flush()


if __name__ == "__main__":
    _limit()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    serve(sys.stdin.buffer, sys.stdout.buffer)
