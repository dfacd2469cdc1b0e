"""Background worker that embeds texts which wait, whoever asked for them.

Texts are taken with a lease, a batch at a time. A worker that dies at any point leaves them to be
taken again when the lease has ended; what it stored stays, and nothing is stored twice.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.search.embedding.composition import to_stored
from registry.search.embedding.errors import EmbeddingFailedError, ModelUnavailableError
from registry.search.embedding.repository import EmbeddingRepository
from registry.search.ports import Vector

log = structlog.get_logger()

BATCH_TEXTS = 64
"""Texts of one lease: a second or two of the model."""

LEASE_SECONDS = 180.0
"""Longer than the model may take for a batch."""

IDLE_SECONDS = 30.0
"""Between two looks for texts that other processes left, without a hint."""

SHORTEST_PAUSE_SECONDS = 0.2
DATABASE_RETRY_SECONDS = 5.0


class TextModel(Protocol):
    """Embeds texts. Implemented by `ModelClient`."""

    @property
    def model(self) -> str:
        """Return what its vectors are stored under."""

    @property
    def dimensions(self) -> int:
        """Return the length of its vectors."""

    @property
    def seconds_to_retry(self) -> float:
        """Return the time until a model that failed is tried again."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a normalised row for each text.

        Raises:
            ModelUnavailableError: The texts were not tried.
            EmbeddingFailedError: The model failed with these texts.
        """


class EmbeddingWorker:
    """Embeds texts that are due, until the process ends.

    Args:
        repository: Where they are.
        model: Embeds them.
        clock: Paces it.
        chance: Spreads the processes of an installation.
    """

    def __init__(
        self,
        repository: EmbeddingRepository,
        model: TextModel,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._repository = repository
        self._model = model
        self._clock = clock
        self._chance = chance
        self._woken = asyncio.Event()
        self._stored: Callable[[Mapping[str, Vector]], None] | None = None

    def listen(self, stored: Callable[[Mapping[str, Vector]], None]) -> None:
        """Call *stored* with each batch of vectors that was stored."""
        self._stored = stored

    def wake(self) -> None:
        """Look for texts at once."""
        self._woken.set()

    async def follow(self) -> None:
        """Run forever; begins when it is woken, or after a pause."""
        is_unavailable = False
        await self._pause(IDLE_SECONDS * self._chance())
        while True:
            self._woken.clear()
            try:
                has_more = await self.embed_some()
                is_unavailable = False
                pause = 0.0 if has_more else await self._pause_seconds()
            except DatabaseUnavailable as exc:
                if not is_unavailable:
                    log.warning("embedding_worker_paused", error=str(exc))
                is_unavailable, pause = True, DATABASE_RETRY_SECONDS
            except Exception:
                # Vectors are missed by searches, and by nothing else.
                log.exception("embedding_round_failed")
                pause = DATABASE_RETRY_SECONDS
            if pause:
                await self._pause(pause)

    async def embed_some(self) -> bool:
        """Embed one batch of texts that are due; return whether there may be more."""
        if self._model.seconds_to_retry > 0:
            return False
        claim = await self._repository.claim(self._model.model, BATCH_TEXTS, LEASE_SECONDS)
        if claim is None or not claim.texts:
            return False
        try:
            made = await self._model.embed([one.text for one in claim.texts])
        except ModelUnavailableError:
            await self._repository.release(claim)
            return False
        except EmbeddingFailedError as exc:
            log.warning("embedding_failed", texts=len(claim.texts), error=exc.problem)
            await self._repository.fail(claim, exc.problem)
            return True
        vectors = {one.digest: made[at] for at, one in enumerate(claim.texts)}
        stored = {digest: to_stored(vector) for digest, vector in vectors.items()}
        await self._repository.store(claim, stored)
        if self._stored is not None:
            self._stored(vectors)
        return True

    async def _pause_seconds(self) -> float:
        if self._model.seconds_to_retry > 0:
            return max(self._model.seconds_to_retry, SHORTEST_PAUSE_SECONDS)
        due = await self._repository.next_due_seconds(self._model.model)
        spread = IDLE_SECONDS * (0.8 + 0.4 * self._chance())
        return spread if due is None else max(SHORTEST_PAUSE_SECONDS, min(due, spread))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
