"""JSON answers of the connections API. Pure."""

from collections.abc import Iterable

from registry.connections.values import ConnectionView, Reconnected, VisibleServer
from registry.core.json import JsonObject


def present_all(found: Iterable[tuple[VisibleServer, ConnectionView]]) -> JsonObject:
    """Return the answer about many servers, in the other application's form: by name."""
    status: JsonObject = {}
    for server, view in found:
        fields: JsonObject = {
            "serverId": server.id,
            "connectionState": view.state.value,
            **_authorization(server, view),
        }
        if view.problem is not None:
            fields["error"] = view.problem
        status[server.name] = fields
    return {"success": True, "connectionStatus": status}


def present_one(server: VisibleServer, view: ConnectionView) -> JsonObject:
    """Return the answer about one server, in the other application's form."""
    fields: JsonObject = {
        "success": True,
        "serverId": server.id,
        "serverName": server.name,
        "connectionStatus": view.state.value,
        **_authorization(server, view),
    }
    if view.problem is not None:
        fields["error"] = view.problem
    return fields


def present_reconnected(
    server: VisibleServer, view: ConnectionView, made: Reconnected
) -> JsonObject:
    """Return the answer about a connection that was made anew."""
    fields = present_one(server, view)
    fields["success"] = made.problem is None and made.link is None
    if made.problem is not None:
        fields["error"] = made.problem
    fields["oauthRequired"] = made.link is not None
    if made.link is not None:
        fields["oauthUrl"] = made.link.url
        fields["flowId"] = made.link.flow_id
    return fields


def _authorization(server: VisibleServer, view: ConnectionView) -> JsonObject:
    fields: JsonObject = {"requiresOAuth": server.oauth is not None}
    if view.authorization is not None:
        fields["authorized"] = view.authorization.is_authorized
        fields["needsReauth"] = view.authorization.needs_reauth
    return fields
