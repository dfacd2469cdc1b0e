#!/usr/bin/env python3
"""Write the parts of docs/ that follow from the code: settings.md and tool-lifecycle.md.

`make docs` runs it; a test fails while the committed file differs from what it would write.
"""

import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    # Run as a file from a fresh clone, only this folder is on the path.
    sys.path.insert(0, str(ROOT))

from registry.core.settings import Settings  # noqa: E402 - needs the path above
from registry.tools.lifecycle import EXPOSED, FIRST, MEANINGS, STATES, TABLE, State  # noqa: E402
from registry.tools.metadata import FLAGS, HEURISTICS, HINTS  # noqa: E402
from registry.tools.repository import SYNC_EVENTS_KEPT  # noqa: E402
from registry.tools.tool_events import MEANINGS as EVENT_MEANINGS  # noqa: E402

SETTINGS_PAGE = ROOT / "docs" / "settings.md"
LIFECYCLE_PAGE = ROOT / "docs" / "tool-lifecycle.md"

LIFECYCLE_TEMPLATE = ROOT / "scripts" / "templates" / "tool-lifecycle.md"

INTRODUCTION = """\
# Settings

<!-- Written by scripts/generate_docs.py from registry/core/settings.py; `make docs` renews it. -->

Every setting is an environment variable.
They are read once, at start.
What is missing or malformed stops the start with one line for each problem.
Local mode (`registry serve --local`) makes the required ones itself, in `REGISTRY_HOME`.
Lists are separated by commas.
Secrets never appear in logs, errors or metrics.

| Variable | Value | Default | Meaning |
| --- | --- | --- | --- |
"""

KINDS = {
    SecretStr: "secret text",
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    Path: "path",
    str: "text",
}
BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "over"), Le: ("le", "at most"), Lt: ("lt", "under")}


def main() -> int:
    """Write the pages and return 0."""
    SETTINGS_PAGE.write_text(settings_page(), encoding="utf-8")
    LIFECYCLE_PAGE.write_text(lifecycle_page(), encoding="utf-8")
    print(f"wrote {SETTINGS_PAGE} and {LIFECYCLE_PAGE}")
    return 0


def lifecycle_page() -> str:
    """Return the text of docs/tool-lifecycle.md."""
    states = "".join(
        f"| `{registration}` | `{exposure}` | {'served' if state == EXPOSED else ''} |\n"
        for state in STATES
        for registration, exposure in [state]
    )
    events = "".join(
        f"| `{row.event}` | {MEANINGS[row.event][0]} | {MEANINGS[row.event][1]} "
        f"| {_named(row.before)} | {_named(row.after)} |\n"
        for row in TABLE
        if row.before != row.after
    )
    lines = [f"    [*] --> {_node(state)}" for state in sorted(FIRST)]
    lines += [
        f"    {_node(row.before)} --> {_node(row.after)}: {row.event}"
        for row in TABLE
        if row.before != row.after
    ]
    return LIFECYCLE_TEMPLATE.read_text(encoding="utf-8").format(
        first=" or ".join(_named(state) for state in sorted(FIRST)),
        states=states,
        events=events,
        diagram="".join(f"{line}\n" for line in lines),
        flags="".join(_flag_row(flag) for flag in FLAGS),
        kept=SYNC_EVENTS_KEPT,
        recorded_events="".join(
            f"| `{event}` | {actor} | {meaning} |\n"
            for event, (actor, meaning) in EVENT_MEANINGS.items()
        ),
    )


def _flag_row(flag: str) -> str:
    hint = HINTS.get(flag)
    prefixes = [
        prefix for beginnings, meant in HEURISTICS if meant == flag for prefix in beginnings
    ]
    cells = [
        f"`{flag}`",
        f"`{hint}`" if hint else "",
        ", ".join(f"`{prefix}`" for prefix in prefixes),
        f"`{hint}`" if hint else "",
    ]
    return f"| {' | '.join(cells)} |\n"


def _named(state: State) -> str:
    return f"`{state[0]}`/`{state[1]}`"


def _node(state: State) -> str:
    return f"{state[0]}_{state[1]}"


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    rows = (
        [f"`{name.upper()}`", _value(field), _default(field), field.description or ""]
        for name, field in Settings.model_fields.items()
    )
    lines = ("| " + " | ".join(_cell(text) for text in row) + " |\n" for row in rows)
    return INTRODUCTION + "".join(lines)


def _value(field: FieldInfo) -> str:
    return ", ".join([_kind(field.annotation), *_bounds(field)])


def _kind(annotation: object) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in {Union, UnionType}:
        (inner,) = (part for part in get_args(annotation) if part is not NoneType)
        return _kind(inner)
    if origin is tuple:
        return "list"
    if isinstance(annotation, type) and annotation in KINDS:
        return KINDS[annotation]
    raise TypeError(f"no words for a setting of type {annotation!r}")


def _bounds(field: FieldInfo) -> list[str]:
    return [
        f"{words} {getattr(bound, attribute)}"
        for bound in field.metadata
        for kind, (attribute, words) in BOUNDS.items()
        if isinstance(bound, kind)
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default_factory is not None:
        return "see there"
    value = field.default
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
