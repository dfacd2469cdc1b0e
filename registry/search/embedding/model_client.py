"""Client of the process that embeds texts, which it starts when it is not there.

Above it are the worker, which embeds what is pending, and queries. One process serves all workers
of a host: the one that holds a file lock starts it, and the others connect to its socket. When
that worker ends, so does the process, and the next to need it starts another:
docs/decisions/0075-embedding-in-a-process.md.
"""

import asyncio
import fcntl
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson
import structlog

from registry.core.background_tasks import BackgroundTasks
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.search.embedding import model_process
from registry.search.embedding.errors import EmbeddingFailedError, ModelUnavailableError
from registry.search.embedding.model_process import (
    BATCH,
    LOADED,
    MODELS,
    QUERY,
    REPLY,
    REQUEST,
    is_installed,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = structlog.get_logger()

COMMAND = (sys.executable, "-I", model_process.__file__)

SOCKET = "model.socket"
LOCK = "model.lock"

START_SECONDS = 60.0
"""Longest wait until the model is loaded; it takes half a second on an idle machine."""

CONNECT_SECONDS = 5.0
START_POLL_SECONDS = 0.05
BATCH_SECONDS = 120.0
"""Longest wait for the vectors of a batch: a hundred times what it takes."""

QUERY_SECONDS = 0.4
"""Longest wait for the vector of a query; then the search is by words alone. It waits for at most
eight texts that are being embedded."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
"""Pauses before a model that could not be started is tried again."""

QUERIES_REMEMBERED = 1_000
QUERIES_AT_ONCE = 32
"""Queries that may wait; a further one is searched by words alone."""

QUERY_CHARACTERS = 2_000

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class ModelState(StrEnum):
    """Whether texts can be embedded."""

    OFF = "off"
    IDLE = "idle"
    READY = "ready"
    FAILED = "failed"


class ModelStatus(NamedTuple):
    """State of the model in this process.

    Attributes:
        model: What its vectors are stored under; None without one.
        problem: Why it failed.
    """

    state: ModelState
    model: str | None
    problem: str | None = None


def chosen(setting: str) -> str | None:
    """Return the name of the model that a setting chooses; None for words alone.

    A model that is named is chosen even if it is not installed, so that its absence is reported.
    """
    if setting == "none":
        return None
    if setting != "auto":
        return setting
    return next((name for name in MODELS if is_installed(name)), None)


class ModelClient:
    """Embeds texts in the process of the model.

    Args:
        name: Of `MODELS`.
        folder: Where the socket is: private to this user, the same for all workers of a host.
        clock: Paces what fails.
        metrics: Counts texts and failures.
        command: Starts the process.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        clock: Clock,
        metrics: Metrics,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._name = name
        self._model = MODELS[name]
        self._socket, self._lock_file = folder / SOCKET, folder / LOCK
        self._clock = clock
        self._command = (*command, name, str(self._socket))
        self._texts = metrics.embedding_texts
        self._failures = metrics.embedding_failures
        self._is_up = metrics.embedding_model_up
        self._connections: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._permits = {priority: asyncio.Lock() for priority in (QUERY, BATCH)}
        self._tasks = BackgroundTasks()
        self._starting: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._lock: int | None = None
        self._problem: str | None = None
        self._has_answered = False
        self._failed = 0
        self._paused_until = float("-inf")
        self._is_closed = False

    @property
    def model(self) -> str:
        """Return what its vectors are stored under."""
        return self._model.id

    @property
    def dimensions(self) -> int:
        """Return the length of its vectors."""
        return self._model.dimensions

    def status(self) -> ModelStatus:
        """Return whether texts can be embedded, as far as is known."""
        if self._problem is not None:
            return ModelStatus(ModelState.FAILED, self.model, self._problem)
        state = ModelState.READY if self._has_answered else ModelState.IDLE
        return ModelStatus(state, self.model)

    @property
    def pid(self) -> int | None:
        """Return the id of the model's process; None if this process did not start it."""
        return None if self._process is None else self._process.pid

    @property
    def seconds_to_retry(self) -> float:
        """Return the time until a model that failed is tried again."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    async def embed(self, texts: Sequence[str], *, priority: int = BATCH) -> "NDArray[np.float32]":
        """Return a normalised row for each text.

        Raises:
            ModelUnavailableError: There is no model now; the texts were not tried.
            EmbeddingFailedError: The model failed with these texts.
        """
        import numpy as np  # noqa: PLC0415 - a process that embeds nothing does not load it

        async with self._permits[priority]:
            reader, writer = await self._connected(priority)
            body = orjson.dumps(list(texts))
            is_usable = False
            try:
                async with asyncio.timeout(BATCH_SECONDS):
                    writer.write(REQUEST.pack(priority, len(body)) + body)
                    await writer.drain()
                    succeeded, length = REPLY.unpack(await reader.readexactly(REPLY.size))
                    reply = await reader.readexactly(length)
                is_usable = True
            except (TimeoutError, OSError, EOFError) as exc:
                self._failures.labels("ended").inc()
                log.warning("embedding_model_ended", model=self.model, error=type(exc).__name__)
                await self._end_process()
                raise EmbeddingFailedError(self.model, "it ended meanwhile") from exc
            finally:
                # Also if the caller is gone: the next one would get this reply.
                if not is_usable:
                    self._disconnect(priority)
        if not succeeded:
            self._failures.labels("refused").inc()
            raise EmbeddingFailedError(self.model, reply.decode(errors="replace"))
        self._texts.labels("query" if priority == QUERY else "batch").inc(len(texts))
        return np.frombuffer(reply, "<f4").reshape(len(texts), self.dimensions)

    async def close(self) -> None:
        """End the process, if it is this one's."""
        self._is_closed = True
        await self._tasks.close()
        await self._end_process()

    async def _connected(self, priority: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        found = self._connections.get(priority)
        if found is not None and not found[0].at_eof():
            return found
        self._disconnect(priority)
        connection = await self._open()
        if connection is None:
            if self._starting is None or self._starting.done():
                self._starting = self._tasks.start(self._start_or_wait())
            # A query that no longer waits must not keep the model from being started.
            await asyncio.shield(self._starting)
            connection = await self._open()
        if connection is None:
            raise ModelUnavailableError(self.model, "its process ended at once")
        self._connections[priority] = connection
        if self._problem is not None or not self._has_answered:
            log.info("embedding_model_started", model=self.model)
        self._problem, self._failed, self._has_answered = None, 0, True
        self._is_up.set(1)
        return connection

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return None

    async def _start_or_wait(self) -> None:
        """Return once clients can connect."""
        if self._is_closed:
            raise ModelUnavailableError(self.model, "this process is ending")
        if self.seconds_to_retry > 0:
            raise ModelUnavailableError(self.model, self._problem or "it is being started")
        try:
            async with asyncio.timeout(START_SECONDS):
                if self._takes_lock():
                    await self._start()
                    return
                # Another worker of this host is starting it.
                while (connection := await self._open()) is None:
                    await self._clock.sleep(START_POLL_SECONDS)
                connection[1].close()
        except (ModelUnavailableError, OSError) as exc:
            await self._note_failure(exc)
            raise ModelUnavailableError(self.model, self._problem or "") from exc

    def _takes_lock(self) -> bool:
        """Whether this process may start the model: one of a host's workers may."""
        if self._lock is None:
            lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    async def _start(self) -> None:
        await self._end_process(unlock=False)
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=ENVIRONMENT,
            # Ctrl-C signals the terminal's whole process group; this process ends with its parent.
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        told = await process.stdout.readline()
        if told != LOADED:
            problem = told.decode(errors="replace").strip() or "its process ended at once"
            raise ModelUnavailableError(self.model, problem)

    async def _note_failure(self, exc: Exception) -> None:
        await self._end_process()
        problem = exc.problem if isinstance(exc, ModelUnavailableError) else type(exc).__name__
        if isinstance(exc, TimeoutError):
            problem = "it was not loaded in time"
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._failed, LONGEST_PAUSE_SECONDS)
        self._failed += 1
        self._paused_until = self._clock.monotonic() + pause
        self._failures.labels("unavailable").inc()
        self._is_up.set(0)
        if problem != self._problem:
            log.warning(
                "embedding_model_unavailable",
                model=self.model,
                problem=problem,
                consequence="search is by words alone",
            )
        self._problem = problem

    def _disconnect(self, priority: int) -> None:
        found = self._connections.pop(priority, None)
        if found is not None:
            found[1].close()

    async def _end_process(self, *, unlock: bool = True) -> None:
        for priority in list(self._connections):
            self._disconnect(priority)
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
            self._socket.unlink(missing_ok=True)
        if unlock and self._lock is not None:
            os.close(self._lock)
            self._lock = None


class QueryEmbedder:
    """Vectors of queries: remembered, made before batches, never awaited long.

    Implements `registry.search.ports.QueryVectors`.

    Args:
        client: The process of the model; None without one.
        seconds: Longest wait.
    """

    def __init__(self, client: ModelClient | None, *, seconds: float = QUERY_SECONDS) -> None:
        self._client = client
        self._seconds = seconds
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._waiting = 0

    @property
    def model(self) -> str | None:
        """Return the model whose vectors queries are compared with; None without one."""
        return None if self._client is None else self._client.model

    async def embed_query(self, text: str) -> "NDArray[np.float32] | None":
        """Return the vector of a query; None if there is none in time, to search by words."""
        if self._client is None:
            return None
        text = " ".join(text[:QUERY_CHARACTERS].encode(errors="replace").decode().split())
        known = self._known.get(text)
        if known is not None:
            self._known.move_to_end(text)
            return known
        if not text or self._waiting >= QUERIES_AT_ONCE or self._client.seconds_to_retry > 0:
            return None
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                vectors = await self._client.embed([text], priority=QUERY)
        except (TimeoutError, ModelUnavailableError, EmbeddingFailedError):
            return None
        finally:
            self._waiting -= 1
        vector: NDArray[np.float32] = vectors[0]
        self._known[text] = vector
        if len(self._known) > QUERIES_REMEMBERED:
            self._known.popitem(last=False)
        return vector
