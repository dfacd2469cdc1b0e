"""The queries of lists of tools. Pure.

What tools are found by comes first, as one condition for each field, and of states those that are
left out are named: beside a choice (`$in`) or alternatives, not every compatible server uses the
index that the rest has. Alternatives are looked at afterwards.
"""

import re
from dataclasses import dataclass, field

from bson import ObjectId

from packages.database.client import Doc
from registry.governance.values import Sight, ToolFilter
from registry.tools.exposure import SERVED
from registry.tools.lifecycle import DELETED, DISABLED, STALE
from registry.tools.metadata import REVIEW, TAG, facet

SORT = [("_id", 1)]
SEARCHED_FIELDS = (
    "name",
    "title",
    "display_name",
    "description",
    "description_override",
    "tags",
)
NARROW = frozenset({"owner_id", "facets"})
"""Fields of which few tools have the value that is asked for."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list asks for.

    Attributes:
        found_by: What all of it must be.
        alternatives: Of which one must hold, each a document for `$or`.
        is_empty: Whether it is known that there is nothing.
    """

    found_by: Doc
    alternatives: tuple[tuple[Doc, ...], ...] = field(default=())
    is_empty: bool = False

    @property
    def hint(self) -> list[tuple[str, int]] | None:
        """Return the index by which it is found soonest, where databases choose worse ones.

        None for facets: told to use their index, the embedded database walks all of it.
        """
        query = self.found_by
        states = (query.get(name) for name in ("registration_state", "exposure_state"))
        is_broad = not (NARROW & query.keys() or any(isinstance(state, str) for state in states))
        # What most tools are is found soonest in the order of the list itself.
        return SORT if is_broad and not self.alternatives else None

    @property
    def stages(self) -> list[Doc]:
        """Return it as the stages of an aggregation."""
        either = [{"$match": {"$or": list(group)}} for group in self.alternatives]
        return [{"$match": self.found_by}, *either]


NOTHING = ListQuery({}, is_empty=True)


def list_query(sight: Sight, narrowed: ToolFilter) -> ListQuery:
    """Return the query of a list: what is seen of what is asked for."""
    query = _states(narrowed) | _facets(narrowed)
    if narrowed.source_type is not None:
        query["source_type"] = narrowed.source_type
    alternatives: list[tuple[Doc, ...]] = []
    if narrowed.text:
        pattern = {"$regex": re.escape(narrowed.text), "$options": "i"}
        alternatives.append(tuple({name: pattern} for name in SEARCHED_FIELDS))
    # What waits is for those who may decide.
    governed = sight.governed
    viewed = frozenset[str]() if narrowed.reviews else sight.viewed
    owner = narrowed.owner_id
    if sight.everything:
        if owner is not None:
            query["owner_id"] = ObjectId(owner)
        return ListQuery(query, tuple(alternatives))
    if owner is not None:
        governed, viewed = governed & {owner}, viewed & {owner}
    seen = governed | viewed
    if not seen:
        return NOTHING
    owners = [ObjectId(one) for one in sorted(seen)]
    query["owner_id"] = owners[0] if len(owners) == 1 else {"$in": owners}
    if seen != governed:
        served: Doc = {
            "registration_state": SERVED[0].value,
            "exposure_state": SERVED[1].value,
        }
        decided = {"owner_id": {"$in": [ObjectId(one) for one in sorted(governed)]}}
        alternatives.append((served, decided) if governed else (served,))
    return ListQuery(query, tuple(alternatives))


def _states(narrowed: ToolFilter) -> Doc:
    query: Doc = {}
    if narrowed.registration_state is not None:
        query["registration_state"] = narrowed.registration_state.value
    elif not narrowed.with_stale:
        query["registration_state"] = {"$ne": STALE.value}
    if narrowed.exposure_state is not None:
        query["exposure_state"] = narrowed.exposure_state.value
    elif narrowed.reviews:
        # What the policy `block` disabled waits for a decision like everything else.
        query["exposure_state"] = {"$ne": DELETED.value}
    elif not narrowed.with_disabled:
        query["exposure_state"] = {"$nin": [DISABLED.value, DELETED.value]}
    return query


def _facets(narrowed: ToolFilter) -> Doc:
    """Return the conditions about reviews, tags and metadata; the first is found by an index.

    Fewer tools wait than have a tag, and fewer have one than share a flag.
    """
    query: Doc = {}
    if narrowed.reviews:
        waiting = [facet(REVIEW, review) for review in narrowed.reviews]
        query["facets"] = waiting[0] if len(waiting) == 1 else {"$in": waiting}
    if narrowed.tags:
        others = list(narrowed.tags)
        if "facets" not in query:
            query["facets"] = facet(TAG, others.pop(0))
        if others:
            query["tags"] = {"$all": others}
    for flag, value in narrowed.flags.items():
        if "facets" not in query:
            query["facets"] = facet(flag, value)
        else:
            query[f"metadata.{flag}"] = value
    return query
