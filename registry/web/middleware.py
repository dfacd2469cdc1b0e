"""Middleware of REST requests: request id, body limits, metrics, unexpected errors, draining."""

import asyncio
import re
import time
import uuid

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.core.asgi import declares_more
from registry.core.drain import Drain
from registry.core.errors import ErrorKind
from registry.core.metrics import Metrics
from registry.core.origin import UrlOrigin, current_origin
from registry.web.errors import RETRY_AFTER_SECONDS, JsonAnswer

log = structlog.get_logger()

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
QUIET_PATHS = ("/health", "/metrics")
"""Polled every few seconds by machines; not logged."""


class BodyTooLargeError(HTTPException):
    """The body exceeded the limit while it was read.

    An HTTPException, because FastAPI turns any other error while reading a body into a 400.
    """

    def __init__(self) -> None:
        super().__init__(413)


class BodyTooSlowError(HTTPException):
    """The body did not arrive in time; see `BodyTooLargeError` for its base."""

    def __init__(self) -> None:
        super().__init__(408, headers={"Connection": "close"})


class RequestRecorder:
    """Gives each request an id, records duration and outcome, and handles every exception.

    A client's own `X-Request-ID` is kept if it is well-formed. Every answer has the header.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int, body_seconds: float
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def tagged_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            current_origin.set(UrlOrigin(request_id, _address(scope)))
            try:
                await self._limited(scope, receive, tagged_send)
            except BodyTooLargeError:
                if not status:
                    await _answer(
                        tagged_send, 413, "payload_too_large", "The request body is too large."
                    )
            except asyncio.CancelledError:
                # Only a shutdown cancels requests.
                log.warning("request_aborted", method=scope["method"], path=scope["path"])
                if not status:
                    await _answer(
                        tagged_send,
                        503,
                        ErrorKind.UNAVAILABLE.value,
                        "The registry is being shut down.",
                    )
            except Exception:
                log.exception("request_failed", method=scope["method"], path=scope["path"])
                if not status:
                    await _answer(
                        tagged_send,
                        500,
                        ErrorKind.INTERNAL.value,
                        f"Internal server error; the log has details under {request_id}.",
                    )
            self._record(scope, status, time.perf_counter() - started)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if declares_more(declared.decode("latin-1"), self._max_body_bytes):
            raise BodyTooLargeError
        taken = 0
        until: float | None = asyncio.get_running_loop().time() + self._body_seconds

        async def limited_receive() -> Message:
            nonlocal taken, until
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlowError from None
            if not message.get("more_body"):
                # From here on `receive` waits until the client disconnects, without a limit.
                until = None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._max_body_bytes:
                    raise BodyTooLargeError
            return message

        await self._app(scope, limited_receive, send)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        template = getattr(route, "path", None) or "unmatched"
        self._metrics.http_requests.labels(scope["method"], template, str(status)).observe(seconds)
        if not scope["path"].startswith(QUIET_PATHS):
            log.info(
                "request_served",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=round(seconds * 1000, 2),
            )


def _address(scope: Scope) -> str | None:
    client = scope.get("client")
    return str(client[0]) if client else None


def _request_id(scope: Scope) -> str:
    sent = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"")
    if REQUEST_ID.fullmatch(sent):
        return str(sent.decode())
    return uuid.uuid4().hex


async def _answer(send: Send, status: int, code: str, message: str) -> None:
    body = orjson.dumps({"error": code, "message": message})
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


STILL_ANSWERED = ("/health", "/metrics")


class RefuseWhileDraining:
    """Answers 503 once the drain has begun, so that clients retry at another process."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if not self._drain.has_begun or scope["path"].startswith(STILL_ANSWERED):
            await self._app(scope, receive, send)
            return
        answer = JsonAnswer(
            {
                "error": ErrorKind.UNAVAILABLE.value,
                "message": "The registry is being shut down.",
            },
            503,
            {"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
        )
        await answer(scope, receive, send)
