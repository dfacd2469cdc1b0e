"""Wire schemas of the connections API: camelCase, as in jarvis-api."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from registry.connections.values import ConnectionState


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ConnectionStatus(_Answer):
    """The connection state of one server."""

    server_id: str
    connection_state: ConnectionState
    requires_oauth: bool = Field(alias="requiresOAuth")
    error: str | None = Field(default=None, description="Why it does not work.")


class ServerConnectionsAnswer(_Answer):
    """The connection state of all servers that the caller may see."""

    success: bool
    connection_status: dict[str, ConnectionStatus] = Field(description="By `serverName`.")


class ServerConnectionAnswer(_Answer):
    """The connection state of one server."""

    success: bool
    server_id: str
    server_name: str
    connection_status: ConnectionState
    requires_oauth: bool = Field(alias="requiresOAuth")
    error: str | None = Field(default=None, description="Why it does not work.")
