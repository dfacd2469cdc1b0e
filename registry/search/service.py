"""Searches of callers: what they may see is masked first, then the rest is ranked.

Nothing is read from the database. Above are the routes and, at the gateway, `find_tool`; below
are the index, and through ports the gateway's decisions and the model of embeddings. A search
never fails for want of vectors: it is by words then.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from cachetools import LRUCache

from registry.auth.errors import InsufficientScopeError
from registry.auth.identity import Scope, UserContext
from registry.core.clock import Clock
from registry.core.metrics import Metrics
from registry.search.index import SearchIndex, Version
from registry.search.ports import (
    Audience,
    Candidates,
    FoundTool,
    Kind,
    QueryVectors,
    Vector,
)
from registry.search.ranking import Mask
from registry.search.retrieval import mask_of, narrowed, retrieve
from registry.search.values import Filters, Hit, SearchAnswer, SearchQuestion

SCOPES: dict[Kind, Scope] = {
    Kind.TOOL: Scope.READ_TOOLS,
    Kind.SERVER: Scope.READ_SERVERS,
    Kind.CATALOG: Scope.READ_CATALOG,
    Kind.CATALOG_TOOL: Scope.READ_CATALOG,
}

USUAL = frozenset(Kind) - {Kind.CATALOG_TOOL}
"""What is searched unless kinds are named: of tools, those that can be called."""

MANY_ROWS = 20_000
"""With more documents a search runs in a thread, so that calls go on."""

MASK_BYTES = 16 * 1024 * 1024
"""Masks of callers that are remembered: a byte for each document and caller."""

MAX_EMBEDDED_CHARACTERS = 2_000
"""How much of a query is embedded; models read less."""


class SearchService:
    """Searches of callers. Implements `ToolFinder`.

    Args:
        index: What is searched.
        vectors: Embeds queries.
        audience: Says what callers may see.
    """

    def __init__(
        self,
        index: SearchIndex,
        vectors: QueryVectors,
        audience: Audience,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._index = index
        self._vectors = vectors
        self._audience = audience
        self._clock = clock
        self._durations = metrics.search_durations
        self._masks: LRUCache[Candidates, tuple[int, Mask]] = LRUCache(
            MASK_BYTES, getsizeof=lambda kept: len(kept[1]) + 200
        )
        for kind in Kind:
            documents = metrics.search_documents.labels(kind.value)
            documents.set_function(partial(index.size, kind))
        metrics.search_vectors.set_function(self._index.vector_count)

    async def search(self, user: UserContext, question: SearchQuestion) -> SearchAnswer:
        """Return what *user* finds.

        Raises:
            InsufficientScopeError: The token allows none of the kinds, or not one that is named.
            ListsOutdatedError: The database has been unavailable for too long.
        """
        kinds = _kinds(user, question.filters.kinds)
        await self._audience.caught_up()
        candidates = self._audience.candidates(user)
        filters = replace(question.filters, kinds=kinds)
        return await self._ranked(
            question.query, None, candidates, filters, question.limit, via="search"
        )

    async def find(
        self, description: str, keywords: str | None, candidates: Candidates, limit: int
    ) -> Sequence[FoundTool]:
        """Return the best of a caller's tools for a description, best first."""
        filters = Filters(kinds=frozenset({Kind.TOOL}))
        answer = await self._ranked(
            description, keywords, candidates, filters, limit, via="find_tool"
        )
        return [
            FoundTool(
                hit.document.key,
                hit.document.server_id or "",
                hit.document.name,
                hit.score,
                hit.explanation,
            )
            for hit in answer.hits
        ]

    async def _ranked(
        self,
        query: str,
        keywords: str | None,
        candidates: Candidates,
        filters: Filters,
        limit: int,
        *,
        via: str,
    ) -> SearchAnswer:
        began_at = self._clock.monotonic()
        vector = await self._embedded(query)
        version = self._index.version

        def work() -> list[Hit]:
            mask = narrowed(version, self._mask(version, candidates), filters)
            return retrieve(version, query, mask, vector, limit, keywords=keywords)

        if len(version.documents) > MANY_ROWS:
            hits = await asyncio.to_thread(work)
        else:
            hits = work()
        model = None if vector is None else version.vectors.model
        labels = (via, "words" if model is None else "hybrid")
        self._durations.labels(*labels).observe(self._clock.monotonic() - began_at)
        return SearchAnswer(hits, model)

    async def _embedded(self, query: str) -> Vector | None:
        model = self._index.version.vectors.model
        if model is None or model != self._vectors.model:
            # A new model's vectors are not there yet, or none are.
            return None
        return await self._vectors.embed_query(query[:MAX_EMBEDDED_CHARACTERS])

    def _mask(self, version: Version, candidates: Candidates) -> Mask:
        kept = self._masks.get(candidates)
        if kept is not None and kept[0] == version.number:
            return kept[1]
        mask = mask_of(version, candidates)
        self._masks[candidates] = (version.number, mask)
        return mask


def _kinds(user: UserContext, wanted: frozenset[Kind]) -> frozenset[Kind]:
    """Return the kinds that are searched: those wanted, or all that the token allows.

    Raises:
        InsufficientScopeError: That are none, or it does not allow all of those wanted.
    """
    allowed = {kind for kind, scope in SCOPES.items() if scope in user.scopes}
    usual = allowed & USUAL
    lacking = wanted - allowed
    if lacking or not usual:
        raise InsufficientScopeError(
            tuple(SCOPES[kind] for kind in Kind if kind in (lacking or USUAL))
        )
    return wanted or frozenset(usual)
