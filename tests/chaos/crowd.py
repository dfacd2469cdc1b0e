"""Clients of two people that call without pause, and judge every answer they get."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice, product
from typing import Any, Protocol

import orjson

from registry.core.clock import SystemClock
from registry.servers.values import Era
from tests.chaos.lines import BROKEN, BrokenOffError, Connection, Line, messages
from tests.chaos.upstream import TOOL

CLOCK = SystemClock()
LEGACY_VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"
CAPABILITIES: dict[str, Any] = {"elicitation": {"form": {}}}
CALLERS = 3
"""Of each person in each era."""

CALLS_PER_LINE = 4
PAUSES = (0.0, 0.01, 0.03)
"""Seconds between the calls of one caller, and before it answers what it is asked."""

PARAMS_INVALID = -32602
NOT_FOUND = 404
OK = 200
ACCEPTED = 202
NOT_TAKEN = 400


class WrongError(AssertionError):
    """Something happened that must not."""


class LostError(Exception):
    """A connection of the call was to a process that was killed."""


class Rotation(Protocol):
    """The addresses that are served now."""

    def any_address(self) -> str:
        """Return each in turn."""

    @property
    def shares_calls(self) -> bool:
        """Whether a call that waits for its client is found from every address."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that a person may use.

    Attributes:
        era: The only one that it speaks.
    """

    name: str
    era: Era


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token and servers."""

    name: str
    token: str = field(repr=False)
    targets: tuple[Target, ...]


@dataclass(slots=True, eq=False)
class Call:
    """One call under way; its lines stay open until it is over."""

    person: Person
    era: Era
    target: Target
    path: str
    nonce: str
    asks: bool
    lines: list[Line]

    @property
    def is_struck(self) -> bool:
        """Whether a process that it was connected to has been killed."""
        return any(line.connection.is_cut for line in self.lines)

    @property
    def tool(self) -> str:
        """Return the tool's name on this path."""
        return TOOL if self.path != "/mcp" else f"{self.target.name}__{TOOL}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of its requests, but for the session."""
        shared = _headers(self.person)
        if self.era is Era.LEGACY:
            return shared | {"MCP-Protocol-Version": LEGACY_VERSION}
        return shared | {
            "MCP-Protocol-Version": MODERN_VERSION,
            "Mcp-Method": "tools/call",
            "Mcp-Name": self.tool,
        }

    def request(self, request_id: str, **more: Any) -> dict[str, Any]:
        """Return the call's message."""
        params = {"name": self.tool, "arguments": {"nonce": self.nonce, "asks": self.asks}, **more}
        if self.era is Era.MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
                "io.modelcontextprotocol/clientCapabilities": CAPABILITIES,
                "io.modelcontextprotocol/clientInfo": {"name": "crowd", "version": "1"},
            }
        return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}

    @property
    def answer(self) -> dict[str, Any]:
        """Return what this caller answers when it is asked, which no other would."""
        return {"action": "accept", "content": {"answer": f"{self.person.name} {self.nonce}"}}


@dataclass(slots=True)
class Crowd:
    """All callers, and what they have seen.

    Attributes:
        connections: All that are open.
        under_way: Calls that are not over.
        done: Calls answered as they should be, by era, server's era, path and whether it asked.
        lost: Calls that were lost with a process.
        refused: What was tried with another person's ids, and refused.
        standing: How often each standing stream was opened.
    """

    rotation: Rotation
    people: tuple[Person, ...]
    connections: list[Connection] = field(default_factory=list)
    under_way: set[Call] = field(default_factory=set)
    done: Counter[tuple[str, str, str, bool]] = field(default_factory=Counter)
    lost: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    standing: Counter[str] = field(default_factory=Counter)
    _sessions: dict[tuple[str, str], str] = field(default_factory=dict)
    _questions: dict[str, str] = field(default_factory=dict)
    _states: dict[str, tuple[Call, str]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    async def arrive(self) -> None:
        """Begin a session of each person at each path, each at the next process."""
        for person in self.people:
            for path in ("/mcp", *(f"/mcp/{target.name}" for target in person.targets)):
                self._sessions[person.name, path] = await self._begun(person, path)

    async def stay(self, over: asyncio.Event) -> None:
        """Call until *over*.

        Raises:
            WrongError: In a group, at the first thing that must not happen.
        """
        async with asyncio.TaskGroup() as group:
            for person, other in zip(self.people, self.people[::-1], strict=True):
                for number in range(CALLERS):
                    for era in Era:
                        group.create_task(self._calling(person, era, number, over))
                group.create_task(self._intruding(person, other, over))
                for opened in (self._get, self._listen):
                    group.create_task(self._listening(person, opened, over))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(30):
            while not condition():
                await CLOCK.sleep(0.01)

    async def _calling(self, person: Person, era: Era, number: int, over: asyncio.Event) -> None:
        kinds = cycle(product((False, True), person.targets, (True, False)))
        line = self._line()
        try:
            for turn, (asks, target, is_combined) in enumerate(islice(kinds, number * 5, None)):
                if over.is_set():
                    return
                if turn % CALLS_PER_LINE == 0 or line.connection.is_cut:
                    await line.aclose()
                    line = self._line()
                path = "/mcp" if is_combined else f"/mcp/{target.name}"
                nonce = f"{person.name}-{next(self._numbers)}"
                await self._call(Call(person, era, target, path, nonce, asks, [line]))
                await CLOCK.sleep(PAUSES[turn % len(PAUSES)])
        finally:
            await line.aclose()

    async def _call(self, call: Call) -> None:
        self.under_way.add(call)
        try:
            converse = self._legacy if call.era is Era.LEGACY else self._modern
            async with asyncio.timeout(20):
                _check(call, await converse(call))
        except (LostError, BrokenOffError, *BROKEN) as exc:
            if not call.is_struck:
                raise WrongError(f"{call} broke off, though its processes live") from exc
            self.lost += 1
        else:
            kind = "/mcp" if call.path == "/mcp" else "/mcp/<server>"
            self.done[call.era, call.target.era, kind, call.asks] += 1
        finally:
            self.under_way.discard(call)
            for line in call.lines[1:]:
                await line.aclose()

    async def _legacy(self, call: Call) -> dict[str, Any]:
        session = {"Mcp-Session-Id": self._sessions[call.person.name, call.path]}
        headers = call.headers | session
        request = call.request(call.nonce)
        async with call.lines[0].request("POST", call.path, headers, request) as answer:
            async for message in messages(answer):
                if "method" not in message:
                    return message
                _check_question(call, message)
                await CLOCK.sleep(PAUSES[1])
                if call.path == "/mcp":
                    self._questions[call.person.name] = message["id"]
                reply = {"jsonrpc": "2.0", "id": message["id"], "result": call.answer}
                await self._bring(call, headers, reply)
        raise BrokenOffError

    async def _bring(self, call: Call, headers: Mapping[str, str], reply: object) -> None:
        """Bring an answer to any process; again, if that is killed meanwhile."""
        while True:
            line = self._side_line(call)
            try:
                async with line.request("POST", call.path, headers, reply) as taken:
                    if call.is_struck and taken.status == NOT_TAKEN:
                        raise LostError
                    if taken.status != ACCEPTED:
                        raise WrongError(f"{call}: {taken.status} {await taken.text()}")
                    return
            except BROKEN:
                if not line.connection.is_cut or call.lines[0].connection.is_cut:
                    raise

    async def _modern(self, call: Call) -> dict[str, Any]:
        request = call.request(call.nonce)
        async with call.lines[0].request("POST", call.path, call.headers, request) as answer:
            asked = await _last(answer)
        result = asked.get("result", {})
        if result.get("resultType") != "input_required":
            return asked
        ((key, question),) = result["inputRequests"].items()
        _check_question(call, question)
        more = {"inputResponses": {key: call.answer}}
        if "requestState" in result:
            more["requestState"] = result["requestState"]
            if call.path == "/mcp/shared-old":
                self._states[call.person.name] = (call, result["requestState"])
        await CLOCK.sleep(PAUSES[2])
        line, again = self._side_line(call), call.request(call.nonce, **more)
        async with line.request("POST", call.path, call.headers, again) as got:
            return await _last(got)

    def _side_line(self, call: Call) -> Line:
        """Return a line for another request of a call: elsewhere, where that is to work."""
        is_kept = call.era is not call.target.era and not self.rotation.shares_calls
        line = self._line(call.lines[0].target if is_kept else None)
        call.lines.append(line)
        return line

    async def _intruding(self, person: Person, other: Person, over: asyncio.Event) -> None:
        """Try another person's ids, which must be of no use anywhere."""
        own = {"Mcp-Session-Id": self._sessions[person.name, "/mcp"]}
        legacy = {"MCP-Protocol-Version": LEGACY_VERSION}
        ping = {"jsonrpc": "2.0", "id": "intruder", "method": "ping"}
        while not over.is_set():
            for path in ("/mcp", "/mcp/shared-old", "/mcp/shared-new"):
                stolen = {"Mcp-Session-Id": self._sessions[other.name, path]}
                headers = _headers(person) | legacy | stolen
                await self._refused("session", headers, path, ping, status=NOT_FOUND)
            if other.name in self._questions:
                headers = _headers(person) | legacy | own
                reply = {"jsonrpc": "2.0", "id": self._questions[other.name], "result": {}}
                await self._refused("question", headers, "/mcp", reply, status=NOT_TAKEN)
            if other.name in self._states:
                call, state = self._states[other.name]
                headers = call.headers | _headers(person)
                more = {"inputResponses": {"input": call.answer}, "requestState": state}
                again = call.request("intruder", **more)
                await self._refused("state", headers, call.path, again, code=PARAMS_INVALID)
            await CLOCK.sleep(0.1)

    async def _refused(
        self,
        what: str,
        headers: Mapping[str, str],
        path: str,
        message: object,
        *,
        status: int | None = None,
        code: int | None = None,
    ) -> None:
        async with aclosing(self._line()) as line:
            with self._hung_up(line):
                async with line.request("POST", path, headers, message) as answer:
                    body = orjson.loads(await answer.read())
                    refused = answer.status == status or body.get("error", {}).get("code") == code
                    if not refused or "result" in body:
                        raise WrongError(f"another's {what} at {path}: {answer.status} {body}")
                    self.refused[what] += 1

    async def _listening(
        self,
        person: Person,
        opened: Callable[[Line, Person], Any],
        over: asyncio.Event,
    ) -> None:
        """Keep a standing stream open; it may end only with its process."""
        while not over.is_set():
            async with aclosing(self._line()) as line:
                with self._hung_up(line):
                    async with opened(line, person) as answer:
                        if answer.status != OK:
                            raise WrongError(f"{person.name}: {await answer.text()}")
                        self.standing[f"{opened.__name__} {person.name}"] += 1
                        await self._read_until(over, answer, line)

    async def _read_until(self, over: asyncio.Event, answer: Any, line: Line) -> None:
        reading = asyncio.ensure_future(_drained(answer))
        ending = asyncio.ensure_future(over.wait())
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not over.is_set():
                reading.result()
                if not line.connection.is_cut:
                    raise WrongError("a standing stream ended, though its process lives")
        finally:
            reading.cancel()
            ending.cancel()
            await asyncio.wait({reading, ending})

    def _get(self, line: Line, person: Person) -> Any:
        headers = _headers(person) | {
            "Accept": "text/event-stream",
            "MCP-Protocol-Version": LEGACY_VERSION,
            "Mcp-Session-Id": self._sessions[person.name, "/mcp"],
        }
        return line.request("GET", "/mcp", headers, seconds=None)

    def _listen(self, line: Line, person: Person) -> Any:
        call = Call(person, Era.MODERN, person.targets[0], "/mcp", "", False, [line])
        message = call.request("listen", notifications={"toolsListChanged": True})
        message |= {"method": "subscriptions/listen"}
        headers = call.headers | {"Mcp-Method": "subscriptions/listen"}
        del headers["Mcp-Name"]
        return line.request("POST", "/mcp", headers, message, seconds=None)

    async def _begun(self, person: Person, path: str) -> str:
        hello = {
            "jsonrpc": "2.0",
            "id": "hello",
            "method": "initialize",
            "params": {
                "protocolVersion": LEGACY_VERSION,
                "capabilities": CAPABILITIES,
                "clientInfo": {"name": "crowd", "version": "1"},
            },
        }
        headers = _headers(person)
        told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        async with aclosing(self._line()) as line:
            async with line.request("POST", path, headers, hello) as answer:
                begun = await _last(answer)
                assert "result" in begun, begun
                session = answer.headers["Mcp-Session-Id"]
            headers |= {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY_VERSION}
            async with line.request("POST", path, headers, told) as answer:
                assert answer.status == ACCEPTED, await answer.text()
        return session

    def _line(self, address: str | None = None) -> Line:
        return Line(address or self.rotation.any_address(), self.connections)

    @contextmanager
    def _hung_up(self, line: Line) -> Iterator[Line]:
        """Let a line break if its process was killed."""
        try:
            yield line
        except BROKEN as exc:
            if not line.connection.is_cut:
                raise WrongError("a connection broke, though its process lives") from exc


def _headers(person: Person) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {person.token}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }


async def _last(answer: Any) -> dict[str, Any]:
    async for message in messages(answer):
        if "method" not in message:
            return message
    raise BrokenOffError


async def _drained(answer: Any) -> None:
    async for _ in answer.content.iter_any():
        pass


def _check_question(call: Call, asked: Mapping[str, Any]) -> None:
    if asked["method"] != "elicitation/create" or asked["params"]["message"] != call.nonce:
        raise WrongError(f"{call} was asked {asked}")


def _check(call: Call, message: Mapping[str, Any]) -> None:
    """Judge an answer: whose call it answers, what it says, whose credential it was got with."""
    if message.get("id") != call.nonce:
        raise WrongError(f"{call} got {message}")
    if call.is_struck and "requestState" in str(message.get("error")):
        # What waited for this client was in the process that is gone, and it is told so.
        raise LostError
    told = {
        "nonce": call.nonce,
        "key": f"Bearer {call.person.name}@{call.target.name}",
        "answer": call.answer["content"]["answer"] if call.asks else None,
    }
    try:
        got = orjson.loads(message["result"]["content"][0]["text"])
    except (KeyError, orjson.JSONDecodeError) as exc:
        raise WrongError(f"{call} got {message}") from exc
    if got != told:
        raise WrongError(f"{call} got {message}")
