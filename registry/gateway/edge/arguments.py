"""Argument check: whether a call's arguments match the approved definition of the tool.

Used where the server now offers another definition: arguments for that one must not pass before it
is reviewed. Otherwise the server checks its arguments itself.
Definitions are untrusted, so they are compiled and run in a child process,
`registry.gateway.edge.argument_process`, with limits on time and memory:
docs/decisions/0026-arguments-in-a-process.md.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
import structlog

from registry.core.clock import Clock
from registry.gateway.edge import argument_process
from registry.gateway.edge.argument_process import HEAD, UNCHECKABLE
from registry.gateway.errors import ArgumentsRefused
from registry.gateway.values import ArgumentCheck, ToolEntry

log = structlog.get_logger()

COMMAND = (sys.executable, "-I", argument_process.__file__)

ANSWER_SECONDS = 5.0
"""Longest wait for a reply. The process ends itself after half a second of processor time."""

WAIT_SECONDS = 5.0
"""Longest wait for the checks of earlier calls."""

PAUSE_SECONDS = 60.0
"""How long a definition is not tried again after a check of it did not finish."""

BUSY = "they could not be checked now; try again"


class ArgumentChecker:
    """Checks arguments, one call after the other, in a process that the first check starts."""

    def __init__(self, clock: Clock, command: tuple[str, ...] = COMMAND) -> None:
        self._clock = clock
        self._command = command
        self._process: Process | None = None
        self._permit = asyncio.Lock()
        self._is_closed = False

    async def require_fit(self, tool: ToolEntry, arguments: Mapping[str, Any]) -> None:
        """Check the arguments of a call of a tool that has a check.

        Raises:
            ArgumentsRefused: They do not match, or the check did not finish.
        """
        if tool.check is not None:
            problem = await self._problem(tool.check, tool.wire, arguments)
            if problem is not None:
                raise ArgumentsRefused(problem)

    async def _problem(
        self, check: ArgumentCheck, definition: bytes, arguments: Mapping[str, Any]
    ) -> str | None:
        """Return the first problem of *arguments*, without values; None if they are valid."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._permit.acquire()
        except TimeoutError:
            return BUSY
        try:
            if self._is_closed:
                return BUSY
            if self._clock.monotonic() < check.paused_until:
                return UNCHECKABLE
            return await self._ask(check, definition, orjson.dumps(arguments))
        finally:
            self._permit.release()

    async def close(self) -> None:
        """End the process."""
        self._is_closed = True
        await self._end()

    async def _ask(self, check: ArgumentCheck, definition: bytes, arguments: bytes) -> str | None:
        is_usable = False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                process = await self._running()
                assert process.stdin is not None  # noqa: S101 - both are pipes
                assert process.stdout is not None  # noqa: S101 - both are pipes
                process.stdin.write(
                    b"".join((HEAD.pack(len(definition), len(arguments)), definition, arguments))
                )
                await process.stdin.drain()
                length, is_last = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
                answer: str | None = orjson.loads(await process.stdout.readexactly(length))
            is_usable = not is_last
        except (TimeoutError, OSError, EOFError) as exc:
            check.paused_until = self._clock.monotonic() + PAUSE_SECONDS
            log.warning("argument_validation_aborted", error=type(exc).__name__)
            return UNCHECKABLE
        finally:
            # Also if the caller is gone: the next call would get this reply.
            if not is_usable:
                await self._end()
        return answer

    async def _running(self) -> Process:
        process = self._process
        if process is not None and process.returncode is None:
            return process
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={},
            # Ctrl-C signals the terminal's whole process group; this process is ended by its
            # parent.
            start_new_session=True,
        )
        return process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
