"""Ask the client something in the middle of a request, in the way of either protocol era."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CreateMessageRequest,
    CreateMessageResult,
    ElicitRequest,
    ElicitResult,
    GetPromptRequestParams,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Context: TypeAlias = ServerRequestContext[Any, Any]
Question: TypeAlias = CreateMessageRequest | ElicitRequest | ListRootsRequest
Asking: TypeAlias = CallToolRequestParams | GetPromptRequestParams
Answers: TypeAlias = Mapping[str, Any]

CAPABILITIES = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}


def is_modern(context: Context) -> bool:
    """Whether the request is of the stateless era."""
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS


def can_answer(context: Context, question: Question) -> bool:
    """Whether the client said that it answers questions of this kind."""
    return (
        getattr(context.session.client_capabilities, CAPABILITIES[question.method], None)
        is not None
    )


def require_capability(context: Context, question: Question) -> None:
    """Refuse a client that did not say so.

    Raises:
        MCPError: As the stateless era has it, with what is missing.
    """
    if not can_answer(context, question):
        needed = CAPABILITIES[question.method]
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"The client must declare the capability {needed}.",
            {"requiredCapabilities": {needed: {}}},
        )


async def ask(
    context: Context, params: Asking, questions: Mapping[str, Question], state: str | None = None
) -> Answers | InputRequiredResult:
    """Return the answers, or the result that asks for them and ends this round.

    Args:
        context: The request.
        params: Its parameters, with the answers of the round before.
        questions: By the name that their answers come back under.
        state: Comes back with the answers; the stateless era only.
    """
    if not is_modern(context):
        return {key: await _request(context, question) for key, question in questions.items()}
    answers = params.input_responses or {}
    if questions.keys() <= answers.keys():
        return answers
    return InputRequiredResult(input_requests=dict(questions), request_state=state)


async def _request(context: Context, question: Question) -> object:
    require_capability(context, question)
    # Related to the request, or it would travel on the stream that stands open beside it.
    metadata = ServerMessageMetadata(related_request_id=context.request_id)
    send = context.session.send_request
    match question:
        case CreateMessageRequest():
            return await send(question, CreateMessageResult, metadata=metadata)
        case ElicitRequest():
            return await send(question, ElicitResult, metadata=metadata)
        case ListRootsRequest():
            return await send(question, ListRootsResult, metadata=metadata)
