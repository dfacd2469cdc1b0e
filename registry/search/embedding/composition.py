"""What is embedded, and what the vectors of documents are made of. Pure.

The vector of a tool is made of that of its own text and that of its context, so that a context
that is renamed costs one text, however many tools there are:
docs/decisions/0076-composed-vectors.md.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.search.ports import CatalogLink, DocumentKey, Kind, SearchDocument, Vector

CONTEXT_WEIGHT = 0.5
"""How much the name of the surroundings counts, compared to the tool's own text."""

DESCRIPTION_WORDS = 90
"""Words of a description that are embedded: the model reads 128 tokens."""

TEXT_CHARACTERS = 2_000
STORED = np.dtype("<f2")

NAME_PARTS = re.compile(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a name is split into words, as a model of sentences reads them."""


class Texts(NamedTuple):
    """What is embedded of a document; empty for nothing.

    Attributes:
        own: Its name and description.
        context: What names its surroundings.
    """

    own: str
    context: str


def texts_of(document: SearchDocument) -> Texts:
    """Return what is embedded of a tool or catalog entry; servers are made of these."""
    is_tool = document.key.kind in {Kind.TOOL, Kind.CATALOG_TOOL}
    name = " ".join(NAME_PARTS.split(document.name)).strip()
    if document.title and not is_tool:
        name = document.title
    description = " ".join((document.description or "").split()[:DESCRIPTION_WORDS])
    return Texts(
        _clean(f"{name} | {description}" if description else name),
        _clean(document.context) if is_tool else "",
    )


def _clean(text: str) -> str:
    """Return a text that any program can read, and no longer than is useful."""
    return " ".join(text[:TEXT_CHARACTERS].encode(errors="replace").decode().split())


def digest_of(model: str, text: str) -> str:
    """Return what a text's vector is stored under."""
    return hashlib.sha256(f"{model}\n{text}".encode()).hexdigest()


def composed(own: Vector, context: Vector | None) -> Vector:
    """Return the vector of a tool."""
    return own if context is None else normalised(own + CONTEXT_WEIGHT * context)


def pooled(vectors: Sequence[Vector]) -> Vector | None:
    """Return the mean of the vectors of a server's tools; None if they have no direction."""
    if not vectors:
        return None
    mean = normalised(np.mean(vectors, axis=0, dtype=np.float32))
    return mean if mean.any() else None


def normalised(vector: NDArray[np.float32]) -> Vector:
    """Return a vector of length 1, or zero if there is no direction."""
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0 else np.zeros_like(vector)


def to_stored(vector: Vector) -> bytes:
    """Return the stored form of a vector."""
    return vector.astype(STORED).tobytes()


def from_stored(stored: object, dimensions: int) -> Vector | None:
    """Return a stored vector; None if it is none of this length, as another program's may be."""
    if not isinstance(stored, bytes) or len(stored) != dimensions * STORED.itemsize:
        return None
    vector = np.frombuffer(stored, STORED).astype(np.float32)
    return vector if np.isfinite(vector).all() else None


class Owner(NamedTuple):
    """A server with its tools, as they are indexed; or entries of the catalog.

    Attributes:
        server: None for entries of the catalog.
        link: The entry that the server is linked to.
        documents: Its tools, or the entries.
    """

    server: DocumentKey | None
    link: CatalogLink | None
    documents: Sequence[SearchDocument]


def vectors_of(
    owner: Owner, entry: SearchDocument | None, known: Mapping[str, Vector]
) -> dict[DocumentKey, Vector | None]:
    """Return the vectors of an owner's documents and of its server.

    A linked server has its entry's vector, whatever its tools are; any other has the mean of its
    own tools' vectors, and none without tools. A document has none while a text's is unknown.

    Args:
        owner: A server, or entries.
        entry: The document of the entry that the server is linked to, if there is one.
        known: Vectors by text.
    """
    found = {document.key: _vector_of(document, known) for document in owner.documents}
    if owner.server is None:
        return found
    if entry is not None:
        found[owner.server] = known.get(texts_of(entry).own)
        return found
    own = [vector for vector in found.values() if vector is not None]
    # The mean of some of the tools would change with each one that follows.
    found[owner.server] = pooled(own) if len(own) == len(owner.documents) else None
    return found


def _vector_of(document: SearchDocument, known: Mapping[str, Vector]) -> Vector | None:
    texts = texts_of(document)
    own, context = known.get(texts.own), known.get(texts.context)
    if own is None or (texts.context and context is None):
        return None
    return composed(own, context)
