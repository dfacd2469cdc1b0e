"""How far the embedding of a server or tool is, in answers about it.

Each process knows it of its own search index; nothing of it is stored.
Source: docs/decisions/0076-composed-vectors.md.
"""

from typing import Literal, Protocol, cast

from pydantic import BaseModel, Field
from starlette.requests import Request

from registry.core.json import JsonObject


class EmbeddingStates(Protocol):
    """Knows the states. Implemented by `registry.wiring.vectors`."""

    def state_of(self, kind: str, document_id: str) -> JsonObject | None:
        """Return `state` and `problem` of a `server` or `tool`; None of what is not indexed."""


class EmbeddingAnswer(BaseModel):
    """Whether it is found by meaning."""

    state: Literal["ready", "pending", "error", "empty", "off"] = Field(
        description="`ready`: by meaning and by words. Only by words: `pending`, texts are being "
        "embedded; `error`, a text failed and is tried again; `empty`, a server without tools or "
        "entry in the catalog; `off`, there is no model."
    )
    problem: str | None = Field(description="Why it failed.")


Embedding = EmbeddingAnswer | None


def embedding_of(
    request: Request, kind: Literal["server", "tool"], document_id: str
) -> JsonObject:
    """Return the member of an answer; null of what search does not have, as of what is off."""
    states = cast("EmbeddingStates", request.app.state.embeddings)
    return {"embedding": states.state_of(kind, document_id)}
