"""A server of the handshake's era that says all but results on the stream of the session (GET).

So does the official TypeScript server with what a tool asks or reports without naming its call:
`server.elicitInput()`, `server.createMessage()`, `server.listRoots()`,
`server.sendLoggingMessage()`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send


class Session:
    """One session with a client.

    Attributes:
        hello: What its `initialize` said.
        told: Notifications that came in it.
    """

    def __init__(self, name: str, hello: dict[str, Any]) -> None:
        self.name = name
        self.hello = hello
        self.told: list[str] = []
        self.stream: asyncio.Queue[bytes | None] | None = None
        self._numbers = count(1)
        self._asked: dict[str, asyncio.Future[Any]] = {}

    def say(self, method: str, params: Any = None) -> None:
        """Send a notification on the stream; it is lost when there is none."""
        self._send({"jsonrpc": "2.0", "method": method, "params": params or {}})

    async def ask(self, method: str, params: Any = None) -> Any:
        """Ask the client something on the stream, and return its answer."""
        number = f"{self.name}-{next(self._numbers)}"
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}})
        return await answer

    def answered(self, message: dict[str, Any]) -> None:
        """Take an answer of the client."""
        future = self._asked.pop(message["id"])
        future.set_result(message.get("result") or message.get("error"))

    def _send(self, message: dict[str, Any]) -> None:
        if self.stream is not None:
            self.stream.put_nowait(orjson.dumps(message))


OnCall = Callable[[Session, dict[str, Any]], Awaitable[Any]]


class OwnStreamServer:
    """Does what *on_call* says with each call, and answers with what that returns.

    Attributes:
        sessions: By their ids.
        on_initialized: Called when a client has said that all is set.
        is_json: Whether results come as JSON; else as an event stream that begins at once.
    """

    def __init__(self, on_call: OnCall, *, is_json: bool = False) -> None:
        self.on_call = on_call
        self.on_initialized: Callable[[Session], Awaitable[Any]] | None = None
        self.is_json = is_json
        self.sessions: dict[str, Session] = {}
        self.ended: list[str] = []
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        body, more = b"", True
        while more:
            piece = await receive()
            body += piece.get("body", b"")
            more = piece.get("more_body", False)
        name = dict(scope["headers"]).get(b"mcp-session-id", b"").decode()
        message = orjson.loads(body) if body else {}
        if message.get("method") == "initialize":
            await self._greet(message, send)
            return
        session = self.sessions.get(name)
        if session is None:
            await _answer(send, 404, b"{}")
        elif scope["method"] == "GET":
            await self._stream(session, receive, send)
        elif scope["method"] == "DELETE":
            self.ended.append(name)
            del self.sessions[name]
            await _answer(send, 200, b"")
        elif "method" not in message:
            session.answered(message)
            await _answer(send, 202, b"")
        elif "id" not in message:
            await self._told(session, message["method"])
            await _answer(send, 202, b"")
        else:
            await self._call(session, message, send)

    async def _greet(self, message: dict[str, Any], send: Send) -> None:
        name = f"own-{next(self._numbers)}"
        self.sessions[name] = Session(name, message["params"])
        capabilities = {"tools": {"listChanged": True}, "logging": {}}
        result = {
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "serverInfo": {"name": "own-stream", "version": "1"},
        }
        await _answer(send, 200, _result(message, result), (b"mcp-session-id", name.encode()))

    async def _told(self, session: Session, method: str) -> None:
        session.told.append(method)
        if method == "notifications/initialized" and self.on_initialized is not None:
            task = asyncio.ensure_future(self.on_initialized(session))
            self._tasks.add(task)

    async def _stream(self, session: Session, receive: Receive, send: Send) -> None:
        queue = session.stream = asyncio.Queue()
        await _start(send, b"text/event-stream")
        await _chunk(send, b": hello\n\n")
        async with asyncio.TaskGroup() as group:
            gone = group.create_task(_until_gone(receive, queue))
            while (text := await queue.get()) is not None:
                await _chunk(send, b"data: " + text + b"\n\n")
            gone.cancel()

    async def _call(self, session: Session, message: dict[str, Any], send: Send) -> None:
        if self.is_json or message["method"] != "tools/call":
            is_call = message["method"] == "tools/call"
            result = await self.on_call(session, message) if is_call else {}
            await _answer(send, 200, _result(message, result))
            return
        await _start(send, b"text/event-stream")
        await _chunk(send, b": working\n\n")
        text = _result(message, await self.on_call(session, message))
        await _chunk(send, b"data: " + text + b"\n\n", more=False)


async def _until_gone(receive: Receive, queue: "asyncio.Queue[bytes | None]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    queue.put_nowait(None)


def _result(message: dict[str, Any], result: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})


async def _start(
    send: Send, kind: bytes, *headers: tuple[bytes, bytes], status: int = 200
) -> None:
    head = [(b"content-type", kind), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})


async def _chunk(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await _start(send, b"application/json", length, *headers, status=status)
    await _chunk(send, body, more=False)
