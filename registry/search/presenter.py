"""Answers of searches. Pure."""

from registry.core.json import JsonObject
from registry.search.ports import Kind
from registry.search.values import Hit, SearchAnswer
from registry.tools.naming import public_name

OBJECT_ID_CHARACTERS = 24


def present_answer(answer: SearchAnswer, *, explains: bool) -> JsonObject:
    """Return an answer, with how each hit was scored if *explains*."""
    return {
        "hits": [_hit(hit, explains=explains) for hit in answer.hits],
        "model": answer.model,
    }


def _hit(hit: Hit, *, explains: bool) -> JsonObject:
    found = hit.document
    is_tool = found.key.kind is Kind.TOOL
    link = found.traits.catalog
    shown: JsonObject = {
        "kind": found.key.kind.value,
        "id": found.key.id if len(found.key.id) == OBJECT_ID_CHARACTERS else None,
        "name": found.name,
        "combined_name": public_name(found.slug, found.name) if is_tool and found.slug else None,
        "server": None
        if found.server_id is None
        else {"id": found.server_id, "name": found.server_name},
        "catalog": None if link is None else {"id": link.id, "name": link.name},
        "title": found.title,
        "description": found.description,
        "score": hit.score,
    }
    if explains:
        why = hit.explanation
        shown["explanation"] = {
            "words": list(why.words),
            "bm25": why.bm25,
            "cosine": why.cosine,
            "exact_name": why.is_exact,
            "fused": why.fused,
        }
    return shown
