"""Answers of the connections API: camelCase, as the other application's."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from registry.connections.values import ConnectionState


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ConnectionStatus(_Answer):
    """How a connection to one server stands."""

    server_id: str
    connection_state: ConnectionState
    requires_oauth: bool = Field(alias="requiresOAuth")
    error: str | None = Field(default=None, description="Why it does not work.")


class AllConnections(_Answer):
    """How the connections to all servers stand that the caller may see."""

    success: bool
    connection_status: dict[str, ConnectionStatus] = Field(description="By `serverName`.")


class OneConnection(_Answer):
    """How the connection to one server stands."""

    success: bool
    server_id: str
    server_name: str
    connection_status: ConnectionState
    requires_oauth: bool = Field(alias="requiresOAuth")
    error: str | None = Field(default=None, description="Why it does not work.")
