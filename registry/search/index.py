"""Search index: all documents in memory, replaced in steps and never modified where it is read.

One task writes it (`apply`, a few milliseconds at a time, with pauses for other tasks); readers
take the current `Version` and keep it for as long as they like, in any thread. Documents that go
or change leave their row behind, which is no candidate any more; rows are numbered again when
there are too many of these. Above is `registry.search.service`, below are `ranking` and `text`.
It knows neither the database nor the gateway. See docs/decisions/0073-search-in-the-process.md.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from registry.search.ports import Changed, DocumentKey, Kind, SearchDocument, Vector
from registry.search.ranking import (
    Lexicon,
    Mask,
    Postings,
    Rows,
    Scores,
    exact_forms,
    weighted_words,
)

DOCUMENTS_AT_A_TIME = 20
"""Documents whose words are counted before other tasks get a turn; about a millisecond."""

WORDS_AT_A_TIME = 500
"""Words whose postings are extended before other tasks get a turn."""

BATCH = 2_000
"""Documents of one step. Of more, the first are found before the last are indexed."""

BLOCK = 1_024
"""Rows of vectors that are copied when one of them changes: 1.5 MB of 384 dimensions."""

MIN_LEFT_BEHIND = 1_000
"""Rows that may be left behind; with more, and more than others, rows are numbered again."""

REMEMBERED_CHANGES = 200
"""Steps whose changes are remembered for those who follow them."""

FORMS = 3
"""Most queries that are exactly one document's name; see `ranking.exact_forms`."""

KINDS = {kind: number for number, kind in enumerate(Kind)}

Rest = Callable[[], Awaitable[None]]
Hashes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ServedTools:
    """The indexed tools of one server.

    Attributes:
        source: The mapping that the gateway serves them from.
        rows: By name.
        every: All of these rows.
    """

    source: Collection[str]
    rows: Mapping[str, int]
    every: Rows


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of documents, in blocks of rows.

    Attributes:
        known: The rows that have one.
        count: How many these are.
    """

    model: str | None = None
    blocks: tuple[NDArray[np.float32], ...] = ()
    known: Mask = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def cosines(self, vector: Vector, rows: int) -> Scores | None:
        """Return the cosine of each row with a vector; None if they cannot be compared."""
        if not self.blocks or self.blocks[0].shape[1] != len(vector):
            return None
        found = np.zeros(rows, dtype=np.float32)
        for number, block in enumerate(self.blocks):
            start = number * BLOCK
            part = min(BLOCK, rows - start)
            np.dot(block[:part], vector, out=found[start : start + part])
        return found


@dataclass(frozen=True, slots=True)
class Version:
    """The index at one moment.

    Attributes:
        number: Higher than that of all versions before.
        documents: By row.
        alive: The rows of documents that exist.
        kinds: Of each row, the number of its kind in `KINDS`.
        forms: Of each row, hashes of the queries that are its name.
        tools: The tools of each server.
        others: The rows of servers and catalog entries, by their ids.
        size: Number of documents.
    """

    number: int = 0
    documents: Sequence[SearchDocument] = ()
    alive: Mask = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    kinds: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, dtype=np.int8))
    forms: Hashes = field(default_factory=lambda: np.zeros((0, FORMS), dtype=np.int64))
    lexicon: Lexicon = field(default_factory=lambda: Lexicon({}, np.zeros(0, dtype=np.float32)))
    tools: Mapping[str, ServedTools] = field(default_factory=dict)
    others: Mapping[Kind, Mapping[str, int]] = field(default_factory=dict)
    vectors: Vectors = field(default_factory=Vectors)
    size: int = 0


class SearchIndex:
    """The searchable documents. Implements `VectorIndex`.

    Args:
        rest: Gives other tasks a turn.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._rows: dict[DocumentKey, int] = {}
        self._version = Version()
        self._changes: deque[Changed] = deque(maxlen=REMEMBERED_CHANGES)
        self._change = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def version(self) -> Version:
        """Return the current version."""
        return self._version

    def document(self, key: DocumentKey) -> SearchDocument | None:
        """Return an indexed document."""
        row = self._rows.get(key)
        return None if row is None else self._version.documents[row]

    def documents(self, keys: Iterable[DocumentKey] | None = None) -> Iterable[SearchDocument]:
        """Return the indexed documents with these keys, or all. Unknown keys are left out."""
        wanted = self._rows if keys is None else keys
        return [one for key in wanted if (one := self.document(key)) is not None]

    async def changed(self, seen: int) -> Changed:
        """Wait until there is another version than *seen*; return what has changed since."""
        while self._version.number == seen:
            await self._change.wait()
        later = [one for one in self._changes if one.version > seen]
        if not seen or not later or later[0].version != seen + 1:
            return Changed(self._version.number, frozenset(self._rows), frozenset())
        put = {key for one in later for key in one.put if key in self._rows}
        gone = {key for one in later for key in one.gone if key not in self._rows}
        return Changed(self._version.number, put, gone)

    async def apply(
        self,
        put: Iterable[SearchDocument],
        gone: Iterable[DocumentKey] = (),
        *,
        served: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        """Index documents, and drop others.

        Args:
            put: New documents, and those that have changed; unchanged ones cost a comparison.
            gone: Keys of those to drop.
            served: By the ids of servers, the mappings that the gateway serves their tools from.
        """
        async with self._lock:
            changed = [one for one in put if one != self.document(one.key)]
            dropped = [key for key in gone if key in self._rows]
            if not changed and not dropped and all(map(self._is_from, served, served.values())):
                return
            batches = [changed[at : at + BATCH] for at in range(0, len(changed), BATCH)] or [[]]
            for number, batch in enumerate(batches):
                await self._step(batch, [] if number else dropped, served)
            await self._compact()

    def _is_from(self, server_id: str, source: Collection[str]) -> bool:
        tools = self._version.tools.get(server_id)
        return tools is None or tools.source is source

    async def _step(
        self,
        put: Sequence[SearchDocument],
        gone: Sequence[DocumentKey],
        served: Mapping[str, Collection[str]],
    ) -> None:
        before = self._version
        documents = list(before.documents)
        left = {self._rows[key]: documents[self._rows[key]] for key in gone}
        added: dict[int, SearchDocument] = {}
        moved: list[tuple[int, int]] = []
        for document in put:
            row = self._rows.get(document.key)
            if row is not None and documents[row].is_worded_as(document):
                documents[row] = document
                continue
            if row is not None:
                left[row] = documents[row]
                moved.append((row, len(documents)))
            added[len(documents)] = document
            documents.append(document)
        lexicon = await self._extended(before.lexicon, added)
        # From here on without a pause: vectors may have been put meanwhile.
        alive = np.concatenate([before.alive, np.ones(len(added), dtype=np.bool_)])
        gone_rows = list(left)
        alive[gone_rows] = False
        for key in gone:
            del self._rows[key]
        for row, document in added.items():
            self._rows[document.key] = row
        self._publish(
            Version(
                number=before.number + 1,
                documents=documents,
                alive=alive,
                kinds=np.concatenate([before.kinds, _kinds(added.values())]),
                forms=np.concatenate([before.forms, _forms(added.values())]),
                lexicon=lexicon,
                tools=_tools(before.tools, added, left, served),
                others=_others(before.others, added, left),
                vectors=_kept(self._version.vectors, moved, gone_rows, len(documents)),
                size=len(self._rows),
            ),
            [one.key for one in added.values()],
            gone,
        )

    def _publish(
        self, version: Version, put: Collection[DocumentKey], gone: Collection[DocumentKey]
    ) -> None:
        self._version = version
        self._changes.append(Changed(version.number, put, gone))
        self._change.set()
        self._change = asyncio.Event()

    async def _extended(self, before: Lexicon, added: Mapping[int, SearchDocument]) -> Lexicon:
        if not added:
            return before
        rows: dict[str, tuple[list[int], list[int]]] = {}
        lengths: list[int] = []
        for row, document in added.items():
            counts = weighted_words(document)
            lengths.append(counts.total())
            for word, count in counts.items():
                known = rows.setdefault(word, ([], []))
                known[0].append(row)
                known[1].append(count)
            if row % DOCUMENTS_AT_A_TIME == DOCUMENTS_AT_A_TIME - 1:
                await self._rest()
        postings = dict(before.postings)
        for number, (word, (numbers, found)) in enumerate(rows.items()):
            more = Postings(np.array(numbers, dtype=np.int32), np.array(found, dtype=np.float32))
            former = postings.get(word)
            postings[word] = more if former is None else _joined(former, more)
            if number % WORDS_AT_A_TIME == WORDS_AT_A_TIME - 1:
                await self._rest()
        every = np.concatenate([before.lengths, np.array(lengths, dtype=np.float32)])
        return Lexicon(postings, every)

    async def _compact(self) -> None:
        """Number the rows again if many documents have left theirs behind."""
        before = self._version
        kept = np.flatnonzero(before.alive)
        if len(before.documents) - len(kept) <= max(MIN_LEFT_BEHIND, len(kept)):
            return
        numbers = np.full(len(before.documents), -1, dtype=np.int32)
        numbers[kept] = np.arange(len(kept), dtype=np.int32)
        postings: dict[str, Postings] = {}
        for number, (word, former) in enumerate(before.lexicon.postings.items()):
            alive = before.alive[former.rows]
            if alive.any():
                postings[word] = Postings(numbers[former.rows[alive]], former.counts[alive])
            if number % WORDS_AT_A_TIME == WORDS_AT_A_TIME - 1:
                await self._rest()
        documents = [before.documents[row] for row in kept.tolist()]
        self._rows = {document.key: row for row, document in enumerate(documents)}
        self._publish(
            replace(
                before,
                number=before.number + 1,
                documents=documents,
                alive=np.ones(len(kept), dtype=np.bool_),
                kinds=before.kinds[kept],
                forms=before.forms[kept],
                lexicon=Lexicon(postings, before.lexicon.lengths[kept]),
                tools={
                    server_id: _served(
                        tools.source, {name: int(numbers[row]) for name, row in tools.rows.items()}
                    )
                    for server_id, tools in before.tools.items()
                },
                others={
                    kind: {key: int(numbers[row]) for key, row in rows.items()}
                    for kind, rows in before.others.items()
                },
                vectors=_gathered(self._version.vectors, kept),
            ),
            (),
            (),
        )

    def put_vectors(self, vectors: Mapping[DocumentKey, Vector], *, model: str) -> None:
        """Use composed and normalised vectors from the next query on."""
        version = self._version
        rows = [
            (row, one) for key, one in vectors.items() if (row := self._rows.get(key)) is not None
        ]
        if not rows:
            return
        before = version.vectors
        dimensions = len(rows[0][1])
        is_other = before.model != model or (
            bool(before.blocks) and before.blocks[0].shape[1] != dimensions
        )
        known = np.zeros(len(version.documents), dtype=np.bool_)
        blocks: list[NDArray[np.float32]] = []
        if not is_other:
            known[: len(before.known)] = before.known
            blocks = list(before.blocks)
        while len(blocks) * BLOCK < len(version.documents):
            blocks.append(np.zeros((BLOCK, dimensions), dtype=np.float32))
        copied: set[int] = set()
        for row, vector in rows:
            number, at = divmod(row, BLOCK)
            if number not in copied:
                blocks[number] = blocks[number].copy()
                copied.add(number)
            blocks[number][at] = vector
            known[row] = True
        self._version = replace(version, vectors=Vectors(model, tuple(blocks), known))

    def drop_vectors(self, keys: Iterable[DocumentKey]) -> None:
        """Rank these documents by words alone."""
        before = self._version.vectors
        rows = [row for key in keys if (row := self._rows.get(key)) is not None]
        known = before.known.copy()
        known[[row for row in rows if row < len(known)]] = False
        self._version = replace(self._version, vectors=replace(before, known=known))

    def size(self, kind: Kind) -> int:
        """Return the number of documents of a kind."""
        version = self._version
        return int(np.count_nonzero(version.alive & (version.kinds == KINDS[kind])))

    def vector_count(self) -> int:
        """Return the number of documents that have a vector."""
        return int(np.count_nonzero(self._version.vectors.known))

    def missing_vectors(self) -> Sequence[DocumentKey]:
        """Return the keys of the documents that have no vector."""
        known = self._version.vectors.known
        return [
            key for key, row in self._rows.items() if not (row < len(known) and bool(known[row]))
        ]


def _joined(first: Postings, second: Postings) -> Postings:
    return Postings(
        np.concatenate([first.rows, second.rows]), np.concatenate([first.counts, second.counts])
    )


def _kinds(documents: Iterable[SearchDocument]) -> NDArray[np.int8]:
    return np.array([KINDS[one.key.kind] for one in documents], dtype=np.int8)


def _forms(documents: Collection[SearchDocument]) -> Hashes:
    found = np.zeros((len(documents), FORMS), dtype=np.int64)
    for row, document in enumerate(documents):
        for at, form in enumerate(exact_forms(document)):
            found[row, at] = hash(form)
    return found


def _served(source: Collection[str], rows: Mapping[str, int]) -> ServedTools:
    return ServedTools(source, rows, np.fromiter(rows.values(), dtype=np.int32, count=len(rows)))


def _tools(
    before: Mapping[str, ServedTools],
    added: Mapping[int, SearchDocument],
    left: Mapping[int, SearchDocument],
    served: Mapping[str, Collection[str]],
) -> Mapping[str, ServedTools]:
    names: dict[str, dict[str, int]] = {}
    for row, document in (*left.items(), *added.items()):
        server_id = document.server_id
        if document.key.kind is not Kind.TOOL or server_id is None:
            continue
        if server_id not in names:
            known = before.get(server_id)
            names[server_id] = {} if known is None else dict(known.rows)
        if row in added:
            names[server_id][document.name] = row
        elif names[server_id].get(document.name) == row:
            del names[server_id][document.name]
    found = dict(before)
    for server_id in {*names, *(one for one in served if one in before)}:
        known = before.get(server_id)
        source = served.get(server_id, () if known is None else known.source)
        rows = names.get(server_id, {} if known is None else known.rows)
        if rows:
            found[server_id] = _served(source, rows)
        else:
            found.pop(server_id, None)
    return found


def _others(
    before: Mapping[Kind, Mapping[str, int]],
    added: Mapping[int, SearchDocument],
    left: Mapping[int, SearchDocument],
) -> Mapping[Kind, Mapping[str, int]]:
    found = dict(before)
    for kind in (Kind.SERVER, Kind.CATALOG):
        put = {one.key.id: row for row, one in added.items() if one.key.kind is kind}
        gone = {one.key.id for one in left.values() if one.key.kind is kind}
        if put or gone:
            known = before.get(kind, {})
            found[kind] = {key: row for key, row in known.items() if key not in gone} | put
    return found


def _kept(
    vectors: Vectors, moved: Sequence[tuple[int, int]], left: Sequence[int], rows: int
) -> Vectors:
    """Return the vectors after documents left their rows, some for others."""
    if not vectors.blocks:
        return vectors
    known = np.zeros(rows, dtype=np.bool_)
    known[: len(vectors.known)] = vectors.known
    blocks = list(vectors.blocks)
    while len(blocks) * BLOCK < rows:
        blocks.append(np.zeros((BLOCK, blocks[0].shape[1]), dtype=np.float32))
    copied: set[int] = set()
    for former, row in moved:
        if not known[former]:
            continue
        number, at = divmod(row, BLOCK)
        if number not in copied:
            blocks[number] = blocks[number].copy()
            copied.add(number)
        blocks[number][at] = vectors.blocks[former // BLOCK][former % BLOCK]
        known[row] = True
    known[[row for row in left if row < rows]] = False
    return Vectors(vectors.model, tuple(blocks), known)


def _gathered(vectors: Vectors, kept: NDArray[np.intp]) -> Vectors:
    """Return the vectors of the rows that are kept, in this order."""
    if not vectors.blocks:
        return vectors
    known = np.zeros(int(kept[-1]) + 1 if len(kept) else 0, dtype=np.bool_)
    known[: len(vectors.known)] = vectors.known[: len(known)]
    dimensions = vectors.blocks[0].shape[1]
    blocks: list[NDArray[np.float32]] = []
    for start in range(0, len(kept), BLOCK):
        block = np.zeros((BLOCK, dimensions), dtype=np.float32)
        for at, row in enumerate(kept[start : start + BLOCK]):
            if known[row]:
                block[at] = vectors.blocks[row // BLOCK][row % BLOCK]
        blocks.append(block)
    return Vectors(vectors.model, tuple(blocks), known[kept])
