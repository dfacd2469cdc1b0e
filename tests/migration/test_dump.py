"""Dumps of the two-table layout: both forms say the same, and a bad row costs only itself."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from registry.migration.dump import read_dump
from registry.migration.errors import DumpError
from registry.migration.values import Kind, Outcome, names_of, read_rows
from tests.migration.conftest import ROWS, TOOL_ROWS, write_lines, write_sqlite


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    whole = read_dump(write_sqlite(tmp_path / "old.db", ROWS, TOOL_ROWS))
    lines = read_dump(write_lines(tmp_path / "lines", ROWS, TOOL_ROWS))

    assert whole.servers == lines.servers
    assert whole.rows == lines.rows == {"mcpserver": 3, "tool": 3}
    assert [one.kinds for one in whole.servers] == [
        (Kind.CATALOG, Kind.SERVER),
        (Kind.SERVER,),
        (Kind.CATALOG,),
    ]


def test_a_remote_server_is_called_where_it_is_and_not_at_its_proxy(tmp_path: Path) -> None:
    _, docs, _ = read_dump(write_sqlite(tmp_path / "old.db", ROWS, TOOL_ROWS)).servers

    assert (docs.address, docs.package, docs.status) == (
        "https://docs.example.org/sse",
        None,
        "stopped",
    )


def test_what_is_no_dump_is_refused_by_name(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text"
    text.write_text("{}")
    later = tmp_path / "later.db"
    with closing(sqlite3.connect(later)) as database:
        database.execute("CREATE TABLE mcpservers_registry (id TEXT)")

    for path, told in (
        (empty, "cannot be read"),
        (text, "is no SQLite database"),
        (tmp_path / "nowhere", "cannot be read"),
        (later, "has no table mcpserver and tool (it has the later layout of four tables)"),
    ):
        with pytest.raises(DumpError, match=re.escape(told)):
            read_dump(path)


def test_reading_changes_no_file(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "old.db", ROWS, TOOL_ROWS)
    before = path.read_bytes()

    read_dump(path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_rows_cost_only_themselves() -> None:
    bad: list[dict[str, object]] = [
        {"name": "no id", "url": "http://x"},
        {"id": "s9", "url": "http://x"},
        {"id": "s8", "name": "nowhere"},
        {**ROWS[0], "name": "again"},
        {},
    ]
    tools: list[dict[str, object]] = [
        {"id": "t8", "mcpserver_id": "gone", "details": "{}"},
        {"id": "t9", "mcpserver_id": "s1", "details": "no JSON"},
        {"id": "t7", "mcpserver_id": "s1", "details": {"name": "spaced name"}},
    ]

    dump = read_rows([*ROWS, *bad], [*TOOL_ROWS, *tools])

    assert [one.name for one in dump.servers] == ["github", "Our Docs", "io.example/time"]
    assert {one.outcome for one in dump.unusable} == {Outcome.FAILED}
    assert [(one.row, one.message) for one in dump.unusable] == [
        ("mcpserver #4", "has no id"),
        ("mcpserver s9", "has no name"),
        ("mcpserver s8", "has neither URL nor package"),
        ("mcpserver s1", "has the id of another row"),
        ("mcpserver #8", "has no id"),
        ("tool t8", "belongs to no row of mcpserver"),
    ]
    github = dump.servers[0]
    assert [tool.name for tool in github.tools.tools] == ["create_issue"]
    assert len(github.problems) == 2


def test_names_that_are_the_same_as_slugs_are_told_apart_always_alike() -> None:
    rows: list[dict[str, object]] = [
        {**ROWS[1], "id": str(number), "name": name}
        for number, name in enumerate(["Our Docs", "our docs", "日本", "ok", "x" * 100])
    ]

    first, again = (names_of(read_rows(order, []).servers) for order in (rows, rows[::-1]))

    assert first == again
    assert len({name.lower() for name in first.values()}) == len(rows)
    assert first["0"].startswith("Our-Docs-")
    assert first["3"] == "ok"
    assert all(len(name) <= 64 for name in first.values())
