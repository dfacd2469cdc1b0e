"""Keys of APIs that are sent where the description says. Pure.

Who gives a key and does not say how it is sent leaves that to the description. It is looked up
when the description is read, once, and stored as if it had been given: a later description does
not move a key.
"""

from registry.core.json import JsonObject, members
from registry.openapi.security import KeyPlace
from registry.servers.credentials import user_key_template
from registry.servers.values import PLACES_KEY, Discovered


def key_placed(config: JsonObject, found: Discovered | None) -> JsonObject:
    """Return the members of a stored `config` that change once it is known where its key goes.

    Args:
        config: As stored, or about to be.
        found: What was read with it; None if nothing was.
    """
    source = members(config.get("openapi"))
    if source.get(PLACES_KEY) is not True or found is None or found.api is None:
        return {}
    place = found.api.credentials.key
    if place is None:
        return {}
    before = members(config.get("apiKey"))
    changed: JsonObject = {
        "openapi": {name: value for name, value in source.items() if name != PLACES_KEY}
    }
    if not before:
        return changed
    changed["apiKey"] = placed(before, place)
    if before.get("source") == "user":
        headers = dict(members(config.get("headers")))
        for name, template in user_key_template(before).items():
            if headers.get(name) == template:
                del headers[name]
        changed["headers"] = {**headers, **user_key_template(members(changed["apiKey"]))}
    return changed


def placed(api_key: JsonObject, place: KeyPlace) -> JsonObject:
    """Return a stored key with its place."""
    kept = {
        name: value
        for name, value in api_key.items()
        if name not in {"authorization_type", "custom_header", "location"}
    }
    kept["authorization_type"] = place.authorization_type
    if place.name is not None:
        kept["custom_header"] = place.name
    if place.location != "header":
        kept["location"] = place.location
    return kept


def place_of(api_key: JsonObject) -> KeyPlace:
    """Return how a stored key is sent."""
    name = str(api_key.get("custom_header") or "")
    match api_key.get("authorization_type"), api_key.get("location"):
        case "basic", _:
            return KeyPlace("basic")
        case "custom", "query":
            return KeyPlace("custom", name, "query")
        case "custom", "cookie":
            return KeyPlace("custom", name, "cookie")
        case "custom", _:
            return KeyPlace("custom", name)
        case _:
            return KeyPlace("bearer")
