"""FastMCP's `from_openapi` beside the registry, on descriptions that neither wrote.

python -m tests.rest.real.beside INTERPRETER PROGRAM

The interpreter is that of an environment of its own, and the program speaks for FastMCP there:
`scripts/bench/fastmcp_side.py`. What came of both is printed as JSON, for the benchmark.
"""

import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from registry.openapi.binding import binding_of
from registry.openapi.description import describe
from registry.openapi.documents import load
from registry.openapi.tools import Selection, tools_of
from tests.rest.real.arguments import arguments
from tests.rest.real.fetched import REAL, fetched
from tests.rest.real.measured import (
    SEEDS,
    judgement,
    loaded,
    narrow_arguments,
    operations,
    refused_request,
)

SAMPLE: Final = 20
"""Tools of each description that are called, twice each."""

SEED: Final = 7
MAX_REASONS: Final = 8


@dataclass(slots=True)
class _Counts:
    """What came of one side."""

    tools: int = 0
    tried: int = 0
    accepted: int = 0
    cpu: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Side:
    """The other program."""

    sends: IO[str]
    answers: IO[str]

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Return the answer to one line."""
        self.sends.write(json.dumps(asked) + "\n")
        self.sends.flush()
        return dict(json.loads(self.answers.readline()))


@contextmanager
def _lines(python: str, program: str) -> Iterator[_Side]:
    process = subprocess.Popen(
        [python, program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        yield _Side(process.stdin, process.stdout)
    finally:
        process.kill()
        process.wait()


def compared(side: _Side) -> dict[str, Any]:
    files = fetched()
    ours, theirs, total = _Counts(), _Counts(), 0
    unread: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for one in REAL:
            twin = files.get(f"{one.name} (twin)")
            found = loaded(files[one.name], twin)
            total += operations(found.document)
            file = Path(folder) / "description.json"
            file.write_text(json.dumps(found.document, default=str))
            began_at = time.process_time()
            tools = tools_of(
                describe(load(file.read_bytes()), url=None, files={}), Selection()
            ).tools
            ours.cpu += time.process_time() - began_at
            ours.tools += len(tools)
            converted = side.ask(document=str(file))
            if "error" in converted:
                unread.append(f"{one.name} ({converted['error'][:60]})")
            theirs.cpu += converted.get("cpu", 0.0)
            theirs.tools += len(converted.get("tools", ()))
            sample = random.Random(SEED).sample([*tools], min(SAMPLE, len(tools)))  # noqa: S311
            _judged(found, sample, side, converted.get("tools", []), ours, theirs)
    sides = {"registry": ours, "FastMCP": theirs}
    return {
        "operations": total,
        "unread": unread,
        "sides": {
            name: {**asdict(counts), "reasons": counts.reasons.most_common(MAX_REASONS)}
            for name, counts in sides.items()
        },
    }


def _judged(
    found: Any,
    sample: list[Any],
    side: _Side,
    converted: list[dict[str, Any]],
    ours: _Counts,
    theirs: _Counts,
) -> None:
    numbers = {(one["method"], one["path"]): place for place, one in enumerate(converted)}
    for tool in sample:
        binding = binding_of(tool.definition)
        path = found.paths[tool.external_id]
        place = None if binding is None else numbers.get((binding.method, path))
        if binding is None or place is None:
            continue
        _count(ours, judgement(found, tool)[0])
        reason: str | None = None
        for seed, is_full in SEEDS:
            try:
                schema = converted[place]["schema"]
                plain = narrow_arguments(binding)
                given = arguments(schema, seed, is_full=is_full, plain=plain)
                sent = side.ask(tool=place, arguments=given)
                if "error" in sent:
                    reason = str(sent["error"])
                    break
                refused = refused_request(
                    found,
                    tool,
                    (sent["method"], sent["target"]),
                    {name.title(): value for name, value in sent["headers"]},
                    base64.b64decode(sent["content"]),
                )
            except Exception as exc:  # noqa: BLE001 - of generator, judge or a path that is none
                refused = [f"{type(exc).__name__}"]
            if refused:
                reason = refused[0].partition(":")[0].lower()
                break
        _count(theirs, reason)


def _count(counts: _Counts, reason: str | None) -> None:
    counts.tried += 1
    if reason is None:
        counts.accepted += 1
    else:
        counts.reasons[reason[:80]] += 1


def main() -> None:
    """Compare, and print what came of it."""
    python, program = sys.argv[1:]
    with _lines(python, program) as side:
        print(json.dumps(compared(side)))  # noqa: T201 - a program


if __name__ == "__main__":
    main()
