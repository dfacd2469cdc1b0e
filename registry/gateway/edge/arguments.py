"""Argument check: whether a call's arguments match the definition that is served.

Definitions are untrusted. What is proved to take short is checked right here, by validators that
are compiled once; all else is compiled and run in a child process,
`registry.gateway.edge.argument_process`, with limits on time and memory:
docs/decisions/0026-arguments-in-a-process.md and docs/decisions/0057-arguments-of-every-call.md.
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
from registry.core.metrics import Metrics
from registry.gateway.edge import argument_process
from registry.gateway.edge.argument_process import HEAD, UNCHECKABLE, told
from registry.gateway.edge.compiled_schemas import CompiledSchema, compile_cheap
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import ArgumentsRefused, OutputUncheckable
from registry.gateway.values import ToolEntry
from registry.tools.call_rules import ArgumentValidation, OutputValidation

log = structlog.get_logger()

COMMAND = (sys.executable, "-I", argument_process.__file__)

ANSWER_SECONDS = 5.0
"""Longest wait for a reply. The process ends itself after half a second of processor time."""

WAIT_SECONDS = 5.0
"""Longest wait for the checks of earlier calls."""

PAUSE_SECONDS = 60.0
"""How long a definition is not tried again after a check of it did not finish."""

LOG_SECONDS = 60.0
"""How often a tool's mismatches are logged; the metric counts all of them."""

KEPT_DEFINITIONS = 20_000
KEPT_BYTES = 32 * 1024 * 1024
"""Maximum number and size of definitions that are kept compiled; then all are dropped."""

BUSY = "they could not be checked now; try again"
NO_STRUCTURED_CONTENT = "the result has no structuredContent, which the outputSchema demands"


class _Definition:
    """What is known of one definition's schemas.

    Attributes:
        arguments: Its `inputSchema`, if checks of it are short.
        text: The text of the same schema.
        has_output_schema: Whether it has an `outputSchema`.
        output: That, if checks of it are short.
        paused_until: Monotonic seconds; before that time no check is tried.
        logged_at: When a mismatch was logged last.
    """

    __slots__ = (
        *("arguments", "has_output_schema", "logged_at", "output", "paused_until"),
        "text",
    )

    def __init__(self, wire: bytes) -> None:
        definition = orjson.loads(wire)
        # MCP demands an object; a tool without a readable schema takes any arguments.
        schema = definition.get("inputSchema")
        schema = schema if isinstance(schema, dict) else {}
        self.text = orjson.dumps(schema)
        self.arguments = compile_cheap(schema)
        output = definition.get("outputSchema")
        self.has_output_schema = isinstance(output, dict)
        self.output: CompiledSchema | None = None
        if self.has_output_schema:
            self.output = compile_cheap(output)
        self.paused_until = 0.0
        self.logged_at = float("-inf")


class ArgumentChecker:
    """Checks arguments and results; what may take long, one after the other in a process.

    Args:
        clock: Paces what did not finish.
        metrics: Counts mismatches.
        command: Starts the process, at the first check that needs it.
    """

    def __init__(self, clock: Clock, metrics: Metrics, command: tuple[str, ...] = COMMAND) -> None:
        self._clock = clock
        self._mismatches = metrics.gateway_mismatches
        self._command = command
        self._definitions: dict[bytes, _Definition] = {}
        self._bytes = 0
        self._process: Process | None = None
        self._permit = asyncio.Lock()
        self._is_closed = False

    def fits(self, tool: ToolEntry, arguments: Mapping[str, Any], size: int) -> bool:
        """Whether arguments match, as far as that can be said at once.

        Args:
            tool: The tool; the text of its definition identifies what is compiled.
            arguments: Of the call.
            size: Length of their JSON text, at least.
        """
        definition = self._definitions.get(tool.wire) or self._known(tool.wire)
        checked = definition.arguments
        if checked is None or size > checked.max_bytes:
            return False
        try:
            return bool(checked.validator.is_valid(arguments))
        except (ValueError, RecursionError, OverflowError):
            return False

    async def require_fit(
        self, exchange: GatewayRequest, tool: ToolEntry, arguments: Mapping[str, Any], size: int
    ) -> None:
        """Check arguments for which `fits` is not true.

        A definition that waits for review is why the approved one is always enforced: arguments
        for the other one must not pass.

        Raises:
            ArgumentsRefused: They do not match, or the check did not finish.
        """
        definition = self._known(tool.wire)
        checked = definition.arguments
        if checked is None or size > checked.max_bytes:
            problem = await self._problem(definition, arguments)
        else:
            problem = _told(checked, arguments)
        if problem is None:
            return
        is_enforced = tool.is_behind or tool.rules.validate is ArgumentValidation.ON
        self._note(exchange, definition, problem, "arguments", is_enforced=is_enforced)
        if is_enforced:
            raise ArgumentsRefused(problem)

    def checks_output(self, exchange: GatewayRequest, tool: ToolEntry) -> None:
        """Have the result of a call checked, if its rules say so.

        Raises:
            OutputUncheckable: That is demanded, and cannot be done.
        """
        definition = self._known(tool.wire)
        if not definition.has_output_schema:
            return
        output = definition.output
        is_enforced = tool.rules.validate_output is OutputValidation.ENFORCE
        if output is None:
            if is_enforced:
                raise OutputUncheckable(tool.name)
            self._note(exchange, definition, UNCHECKABLE, "output", is_enforced=False)
            return

        def check(raw: bytes) -> bytes:
            problem = _output_problem(output, raw)
            if problem is None:
                return raw
            self._note(exchange, definition, problem, "output", is_enforced=is_enforced)
            return _refused_output(exchange, problem) if is_enforced else raw

        exchange.output_check = check

    def _known(self, wire: bytes) -> _Definition:
        definition = self._definitions.get(wire)
        if definition is None:
            definition = _Definition(wire)
            self._bytes += len(wire)
            if len(self._definitions) >= KEPT_DEFINITIONS or self._bytes > KEPT_BYTES:
                self._definitions.clear()
                self._bytes = len(wire)
            self._definitions[wire] = definition
        return definition

    def _note(
        self,
        exchange: GatewayRequest,
        definition: _Definition,
        problem: str,
        part: str,
        *,
        is_enforced: bool,
    ) -> None:
        action = "refused" if is_enforced else "reported"
        self._mismatches.labels(exchange.label, part, action).inc()
        now = self._clock.monotonic()
        if now - definition.logged_at >= LOG_SECONDS:
            definition.logged_at = now
            log.warning(
                "definition_mismatch",
                server=exchange.server,
                tool=exchange.tool,
                part=part,
                action=action,
                problem=problem,
            )

    async def _problem(self, definition: _Definition, arguments: Mapping[str, Any]) -> str | None:
        """Return the problems of *arguments*, without values; None if they are valid."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._permit.acquire()
        except TimeoutError:
            return BUSY
        try:
            if self._is_closed:
                return BUSY
            if self._clock.monotonic() < definition.paused_until:
                return UNCHECKABLE
            return await self._ask(definition, orjson.dumps(arguments))
        finally:
            self._permit.release()

    async def close(self) -> None:
        """End the process."""
        self._is_closed = True
        await self._end()

    async def _ask(self, definition: _Definition, arguments: bytes) -> str | None:
        is_usable = False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                process = await self._running()
                assert process.stdin is not None  # noqa: S101 - both are pipes
                assert process.stdout is not None  # noqa: S101 - both are pipes
                schema = definition.text
                process.stdin.write(
                    b"".join((HEAD.pack(len(schema), len(arguments)), schema, arguments))
                )
                await process.stdin.drain()
                length, is_last = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
                answer: str | None = orjson.loads(await process.stdout.readexactly(length))
            is_usable = not is_last
        except (TimeoutError, OSError, EOFError) as exc:
            definition.paused_until = self._clock.monotonic() + PAUSE_SECONDS
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


def _told(schema: CompiledSchema, value: Any) -> str | None:
    try:
        return told(schema.validator, value, schema.untold)
    except (ValueError, RecursionError, OverflowError):
        return UNCHECKABLE


def _output_problem(schema: CompiledSchema, raw: bytes) -> str | None:
    """Return the problems of a message's result; None if it is valid, or no complete result."""
    if len(raw) > schema.max_bytes:
        return "it is too large to be checked"
    try:
        message = orjson.loads(raw)
    except ValueError:
        return "it is not valid JSON"
    result = message.get("result") if isinstance(message, dict) else None
    if not isinstance(result, dict) or result.get("isError") is True:
        return None
    if result.get("resultType", "complete") != "complete":
        return None
    if "structuredContent" not in result:
        return NO_STRUCTURED_CONTENT
    return _told(schema, result["structuredContent"])


def _refused_output(exchange: GatewayRequest, problem: str) -> bytes:
    noun = "server" if exchange.route is None else exchange.route.noun
    text = f"The {noun}'s result does not match the tool's outputSchema: {problem}."
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": True}
    if exchange.is_modern:
        result["resultType"] = "complete"
    return orjson.dumps({"jsonrpc": "2.0", "id": exchange.request_id, "result": result})
