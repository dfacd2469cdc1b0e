"""The quick tier: the tests that open no socket and start no process.

What a test needs is read from its code and from that of its fixtures. One that names
`start_server`, or a function or class of the tests that does, gets the marker `integration`; where
the product itself opens the socket, the file carries the marker. `--quick` leaves marked tests
out. In every run a test without the marker fails when it binds, connects or starts a process.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
OPENING = frozenset(
    {
        *("bind", "connect", "create_server", "create_unix_server", "create_connection"),
        *("open_connection", "open_unix_connection", "start_server", "start_unix_server"),
        *("HTTPServer", "ThreadingHTTPServer", "create_subprocess_exec", "subprocess"),
    }
)
"""Names of the standard library that stand for a socket or a process."""
EVENTS = frozenset({"socket.bind", "socket.connect", "subprocess.Popen", "os.fork"})
"""Audit events of what a test without the marker must not do."""
EXTERNAL = tuple(
    TESTS / name
    for name in (
        *("clients", "conformance", "crossapp", "npm", "processes/local", "repository"),
        *("scripts", "workers"),
    )
)
"""Folders that `--quick` does not collect: they run programs, or read the whole repository."""

_unmarked: list[str] = []
"""The test that runs, when it must not open anything."""
opened: list[str] = []
"""What it tried to open all the same."""


class Openings:
    """Which functions and classes of the tests open a socket or start a process."""

    def __init__(self) -> None:
        self._known: dict[object, bool] = {}

    def has(self, found: Any) -> bool:
        """Return whether the code of a function or class, or what that code names, opens one."""
        found = inspect.unwrap(found) if callable(found) else found
        if not isinstance(found, FunctionType | type) or not _is_of_tests(found):
            return False
        if found not in self._known:
            self._known[found] = False
            self._known[found] = any(map(self._is_opened_by, _functions(found)))
        return self._known[found]

    def _is_opened_by(self, function: FunctionType) -> bool:
        names = set(_names(function.__code__))
        return not names.isdisjoint(OPENING) or any(
            self.has(function.__globals__.get(name)) for name in names
        )


def _is_of_tests(found: Any) -> bool:
    return str(found.__module__).startswith("tests.")


def _functions(found: FunctionType | type) -> Iterator[FunctionType]:
    if isinstance(found, FunctionType):
        yield found
        return
    for base in filter(_is_of_tests, found.__mro__):
        for member in vars(base).values():
            getter = getattr(member, "fget", member)
            function = inspect.unwrap(getattr(getter, "__func__", getter))
            if isinstance(function, FunctionType):
                yield function


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _code_of(item: pytest.Function) -> Iterator[Any]:
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        yield from (definition.func for definition in definitions)
    if hasattr(item, "callspec"):
        yield from item.callspec.params.values()


def mark_integration(items: list[pytest.Item]) -> None:
    """Put the marker on each test that opens a socket or starts a process."""
    openings = Openings()
    for item in items:
        if (
            item.get_closest_marker("wire")
            or not set(EXTERNAL).isdisjoint(item.path.parents)
            or (isinstance(item, pytest.Function) and any(map(openings.has, _code_of(item))))
        ):
            item.add_marker(pytest.mark.integration)


def watch_sockets() -> None:
    """Refuse sockets and processes to tests without the marker, from now on."""

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if _unmarked and event in EVENTS:
            opened.append(event)
            raise RuntimeError(f"{_unmarked[0]} lacks @pytest.mark.integration: {event}.")

    sys.addaudithook(refuse)


@contextmanager
def watched(item: pytest.Item) -> Iterator[None]:
    """Refuse sockets and processes to *item*, unless it has the marker."""
    opened.clear()
    _unmarked[:] = [] if item.get_closest_marker("integration") else [item.nodeid]
    try:
        yield
    finally:
        _unmarked.clear()
