"""Wire schemas of the OAuth API: camelCase, as in jarvis-api."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from packages.models.states import FlowStatus


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class InitiateAnswer(_Answer):
    """A flow that waits for a browser."""

    success: bool
    flow_id: str
    server_id: str
    authorization_url: str = Field(
        description="To be opened in the user's browser; contains no token."
    )
    expires_at: datetime


class FlowAnswer(_Answer):
    """The state of a flow."""

    flow_id: str
    server_id: str
    server_name: str
    status: FlowStatus
    completed: bool
    failed: bool
    error: str | None = Field(default=None, description="Why it failed.")
    expires_at: datetime


class RevokeAnswer(_Answer):
    """Result of a removal of tokens."""

    success: bool
    server_id: str
    revoked_at_provider: bool = Field(
        description="Whether the authorization server confirmed that the tokens are revoked."
    )
