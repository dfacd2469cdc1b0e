"""What calls of an API send as credentials, for people. Pure."""

from collections.abc import Iterable

from registry.core.json import JsonObject, load_text, members
from registry.oauth.policy import grant_of
from registry.oauth.values import Grant
from registry.openapi.binding import binding_of
from registry.servers.credentials import is_secret_header, user_key_template
from registry.servers.described_keys import place_of
from registry.tools.values import ToolDefinition

PUBLIC = '"is_public"'
"""Contained in the definition of every operation that says that it needs no credentials."""


def present_credentials(
    config: JsonObject, tools: Iterable[ToolDefinition]
) -> dict[str, list[str]]:
    """Return how credentials are sent, and by which tools none are."""
    sent: list[str] = []
    api_key = members(config.get("apiKey"))
    if api_key:
        sent.append(place_of(api_key).text)
    match grant_of(config):
        case None:
            pass
        case Grant.CLIENT_CREDENTIALS:
            sent.append("OAuth access token of the registry")
        case _:
            sent.append("OAuth access token of the user")
    templates = user_key_template(api_key) if api_key.get("source") == "user" else {}
    sent += [
        f"header {name}"
        for name, value in members(config.get("headers")).items()
        if name not in templates and is_secret_header(name, value)
    ]
    unsent = [tool.name for tool in tools if sent and _is_public(tool)]
    return {"sentAs": sent, "notSentBy": unsent}


def _is_public(tool: ToolDefinition) -> bool:
    if PUBLIC not in tool.definition:
        return False
    binding = binding_of(members(load_text(tool.definition)))
    return binding is not None and binding.is_public
