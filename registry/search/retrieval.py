"""Retrieval: the best documents of one version of the index for a query, by one caller.

Takes no I/O and never waits, so it runs in any thread. What is no candidate is masked before
anything is counted or ranked.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from registry.core.search import folded
from registry.search.index import FORMS, KINDS, ServedTools, Version
from registry.search.ports import (
    Candidates,
    Kind,
    SearchDocument,
    Traits,
    Vector,
)
from registry.search.ranking import (
    EXACT_BONUS,
    SCORE_DIGITS,
    Mask,
    Rows,
    best,
    bm25,
    exact_forms,
    explained,
    fused,
    looked_up,
    query_words,
)
from registry.search.text import name_form
from registry.search.values import Filters, Hit

CATALOG_KINDS = np.array([KINDS[Kind.CATALOG], KINDS[Kind.CATALOG_TOOL]], dtype=np.int8)


def mask_of(version: Version, candidates: Candidates) -> Mask:
    """Return the rows of a version that are candidates."""
    mask = np.zeros(len(version.documents), dtype=np.bool_)
    parts: list[Rows] = []
    for server_id, names in candidates.tools.items():
        tools = version.tools.get(server_id)
        if tools is not None:
            parts.append(_rows_named(tools, names))
    if parts:
        mask[np.concatenate(parts)] = True
    servers = version.others.get(Kind.SERVER, {})
    mask[[row for key in candidates.servers if (row := servers.get(key)) is not None]] = True
    if candidates.catalog is None:
        mask[np.isin(version.kinds, CATALOG_KINDS)] = True
    else:
        entries = version.others.get(Kind.CATALOG, {})
        mask[[row for key in candidates.catalog if (row := entries.get(key)) is not None]] = True
    return mask & version.alive


def _rows_named(tools: ServedTools, names: Collection[str]) -> Rows:
    if names is tools.source and len(names) == len(tools.rows):
        return tools.every
    known = tools.rows
    return np.array([known[name] for name in names if name in known], dtype=np.int32)


def narrowed(version: Version, mask: Mask, filters: Filters) -> Mask:
    """Return the rows of a mask that pass the filters."""
    if filters.kinds:
        wanted = np.zeros(len(KINDS), dtype=np.bool_)
        wanted[[KINDS[kind] for kind in filters.kinds]] = True
        mask = mask & wanted[version.kinds]
    if filters.are_none:
        return mask
    narrow = np.zeros(len(mask), dtype=np.bool_)
    server = None if filters.server is None else folded(filters.server)
    catalog = None if filters.catalog is None else folded(filters.catalog)
    tags = {folded(tag) for tag in filters.tags}
    # Most documents share their traits with many others.
    passing: dict[Traits, bool] = {}
    documents = version.documents
    for row in np.flatnonzero(mask).tolist():
        document = documents[row]
        traits = document.traits
        passes = passing.get(traits)
        if passes is None:
            passes = passing[traits] = _passes(traits, filters, catalog)
        if (
            passes
            and (server is None or _is_of(document, server))
            and (not tags or tags <= {folded(tag) for tag in document.tags})
        ):
            narrow[row] = True
    return narrow


def _passes(traits: Traits, filters: Filters, catalog: str | None) -> bool:
    if filters.status is not None and traits.status != filters.status:
        return False
    if filters.source_type is not None and traits.source_type != filters.source_type:
        return False
    if filters.read_only is not None and traits.read_only is not filters.read_only:
        return False
    if catalog is None:
        return True
    link = traits.catalog
    return link is not None and catalog in {link.id, folded(link.name)}


def _is_of(document: SearchDocument, server: str) -> bool:
    if document.server_id is None:
        return False
    name = document.name if document.key.kind is Kind.SERVER else document.server_name or ""
    return server in {document.server_id, folded(name)}


def retrieve(
    version: Version,
    query: str,
    mask: Mask,
    vector: Vector | None,
    limit: int,
    *,
    keywords: str | None = None,
) -> list[Hit]:
    """Return the best candidates, best first; equal ones in the order of their keys.

    Args:
        version: Of the index.
        query: What is looked for.
        mask: The candidates.
        vector: Of the query; None for a search by words alone.
        limit: Maximum number.
        keywords: Looked up in place of the query's words.
    """
    lexicon, vectors = version.lexicon, version.vectors
    by_words_of = keywords if keywords is not None and query_words(keywords) else query
    terms = looked_up(query_words(by_words_of), lexicon, mask)
    by_words = bm25(terms, lexicon, mask)
    known = np.zeros(len(mask), dtype=np.bool_)
    known[: len(vectors.known)] = vectors.known[: len(mask)]
    cosines = None if vector is None else vectors.cosines(vector, len(mask))
    scores = fused(by_words, cosines, mask, known)
    exact = _exact(version, mask, {name_form(query), name_form(by_words_of)})
    scores[exact] += np.float32(EXACT_BONUS)
    rows = best(scores, limit).tolist()
    rounded = {row: round(float(scores[row]), SCORE_DIGITS) for row in rows}
    rows.sort(key=lambda row: (-rounded[row], version.documents[row].key))
    return [
        Hit(
            version.documents[row],
            rounded[row],
            explained(
                row,
                terms,
                by_words,
                None if cosines is None or not known[row] else float(cosines[row]),
                rounded[row],
                is_exact=row in exact,
            ),
        )
        for row in rows[:limit]
    ]


def _exact(version: Version, mask: Mask, forms: Iterable[str]) -> Sequence[int]:
    """Return the candidates whose name is one of these; see `text.name_form`."""
    found: list[int] = []
    for form in forms:
        if form:
            same = np.flatnonzero(version.forms.ravel() == hash(form)) // FORMS
            found += [
                row
                for row in dict.fromkeys(same.tolist())
                if mask[row] and row not in found and form in exact_forms(version.documents[row])
            ]
    return found
