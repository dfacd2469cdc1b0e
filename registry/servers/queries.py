"""The queries of lists of servers, and which index each is answered by."""

import re
from collections.abc import Collection, Sequence
from enum import StrEnum

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING

from packages.database.client import Doc
from registry.access.policy import ServerScope, Visibility
from registry.auth.identity import UserContext
from registry.servers.values import ServerFilter, ServerStatus

SORT = [("updatedAt", DESCENDING), ("_id", ASCENDING)]
SEARCHED_FIELDS = ("serverName", "config.title", "config.description", "tags")

DEFAULT_SCOPE, DEFAULT_STATUS = ServerScope.PRIVATE_USER, ServerStatus.ACTIVE
"""As what a server is shown whose document does not say. See `ServerRecord`."""

ENTRIES_LOOKED_UP = 200
"""Up to so many granted servers are looked up one by one; for more, the shared ones are read."""


def tenant_rule(user: UserContext) -> Doc:
    """Return the condition that a server is of the caller's tenant; none for the operator."""
    if user.is_of_all_tenants:
        return {}
    return {"tenantId": {"$in": [None, ""]} if user.tenant_id is None else user.tenant_id}


def list_query(visible: Doc, narrowed: ServerFilter, tenant: Doc) -> Doc:
    """Return the query of a list: the access rules and the caller's filters, all to hold.

    Filters are about what is shown; `ServerFilter.admits` says the same of a server in memory.
    """
    rules: list[Doc] = [rule for rule in (visible, tenant) if rule]
    if narrowed.scope is not None:
        rules.append({"scope": _shown_as(narrowed.scope, DEFAULT_SCOPE)})
    if narrowed.status is not None:
        rules.append({"status": _shown_as(narrowed.status, DEFAULT_STATUS)})
    if narrowed.author is not None:
        rules.append({"author": ObjectId(narrowed.author)})
    if narrowed.query:
        # Written as an operator: a regex value on an indexed field is not understood by
        # every compatible server. The text is taken literally.
        pattern = {"$regex": re.escape(narrowed.query), "$options": "i"}
        rules.append({"$or": [{name: pattern} for name in SEARCHED_FIELDS]})
    if len(rules) == 1:
        return rules[0]
    return {"$and": rules} if rules else {}


def _shown_as(wanted: StrEnum, default: StrEnum) -> object:
    """Return the condition for a member that is shown as *wanted*.

    What lacks it, or has an unknown value there, is shown with the default.
    """
    if wanted is not default:
        return wanted.value
    return {"$nin": [one.value for one in type(default) if one is not default]}


def key_rules(visible: Visibility, granted: Collection[str]) -> list[Doc]:
    """Return the queries that together find what a list shows.

    The first one finds the caller's own servers, the second those that it shows whoever the
    caller is; the others find what is shown if it is in *granted*, ids of servers.
    """
    rules: list[Doc] = [
        {"author": ObjectId(visible.author)},
        {"scope": _one_of(visible.scopes)},
    ]
    if not visible.granted_scopes:
        return rules
    scope = _one_of(visible.granted_scopes)
    if len(granted) > ENTRIES_LOOKED_UP:
        return [*rules, {"scope": scope}]
    ids = [ObjectId(server_id) for server_id in granted]
    if ids:
        rules.append({"_id": {"$in": ids}, "scope": scope})
    # What the other application wrote may be open to the public by its entries alone.
    return [*rules, {"scope": None}]


def _one_of(scopes: Sequence[ServerScope | None]) -> Doc:
    return {"$in": [None if scope is None else scope.value for scope in scopes]}


def count_index(query: Doc) -> list[tuple[str, int]] | None:
    """Return the index to name for counting, or None when the one condition has its own.

    Without it other counts scan the collection; with it, they read what an index names.
    """
    # `status` alone leads nowhere: it comes second in its index.
    if any(isinstance(query.get(name), str | ObjectId) for name in ("scope", "author")):
        return None
    return SORT
