"""Workers of one registry, all of them in this process."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from registry.gateway.ports import PeerGone, Peers

Handler = Callable[[bytes], Awaitable[bytes]]


class FakeWorkers:
    """Knows them all.

    Attributes:
        forwarded: To whom requests were forwarded.
        told: Messages that were told, to whomever.
    """

    def __init__(self) -> None:
        self.apps: dict[str, ASGIApp] = {}
        self.handlers: dict[str, Handler] = {}
        self.forwarded: list[str] = []
        self.told: list[bytes] = []

    def peer(self, own: str) -> "FakePeers":
        """Return what the worker *own* reaches the others by."""
        return FakePeers(own, self)

    def serve(self, apps: Mapping[str, ASGIApp]) -> None:
        """Have these applications answer what is forwarded."""
        self.apps.update(apps)

    def kill(self, worker: str) -> None:
        """Let a worker be gone."""
        del self.apps[worker]
        self.handlers.pop(worker, None)


class FakePeers(Peers):
    """What one worker reaches the others by."""

    def __init__(self, own: str, workers: FakeWorkers) -> None:
        self.own = own
        self._workers = workers

    @override
    async def forward(
        self, worker: str, scope: Scope, body: bytes | bytearray, receive: Receive, send: Send
    ) -> None:
        """Have *worker* answer.

        Raises:
            PeerGone: It is gone.
        """
        app = self._workers.apps.get(worker)
        if app is None or worker == self.own:
            raise PeerGone
        self._workers.forwarded.append(worker)
        is_read = asyncio.Event()

        async def read() -> Message:
            if is_read.is_set():
                return await receive()
            is_read.set()
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await app(scope, read, send)

    @override
    async def send(self, worker: str, message: bytes) -> bytes | None:
        """Tell one worker."""
        self._workers.told.append(message)
        handler = self._workers.handlers.get(worker)
        return None if handler is None else await handler(message)

    @override
    async def broadcast(self, message: bytes) -> list[bytes]:
        """Tell all others."""
        self._workers.told.append(message)
        others = [handler for name, handler in self._workers.handlers.items() if name != self.own]
        return [await handler(message) for handler in others]

    @override
    def listen(self, handler: Handler) -> None:
        """Have *handler* reply."""
        self._workers.handlers[self.own] = handler
