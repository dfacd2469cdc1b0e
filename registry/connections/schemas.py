"""Wire schemas of the connections API: camelCase, as in jarvis-api."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from registry.connections.values import ConnectionState


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class _Authorization(_Answer):
    requires_oauth: bool = Field(alias="requiresOAuth")
    authorized: bool | None = Field(
        default=None,
        description="Whether the caller has authorised the registry; for servers with OAuth.",
    )
    needs_reauth: bool | None = Field(
        default=None,
        description="Whether the caller had, and must do so again; for servers with OAuth.",
    )
    error: str | None = Field(default=None, description="Why it does not work.")


class ConnectionStatus(_Authorization):
    """The connection state of one server."""

    server_id: str
    connection_state: ConnectionState


class ServerConnectionsAnswer(_Answer):
    """The connection state of all servers that the caller may see."""

    success: bool
    connection_status: dict[str, ConnectionStatus] = Field(description="By `serverName`.")


class ServerConnectionAnswer(_Authorization):
    """The connection state of one server."""

    success: bool
    server_id: str
    server_name: str
    connection_status: ConnectionState


class ReinitializeAnswer(ServerConnectionAnswer):
    """The connection state of one server after the connection was made anew."""

    oauth_required: bool = Field(
        alias="oauthRequired", description="Whether the caller must authorise the registry first."
    )
    oauth_url: str | None = Field(
        default=None, alias="oauthUrl", description="To be opened in the caller's browser."
    )
    flow_id: str | None = Field(default=None, description="Of the flow that this URL begins.")
