"""The tools of the everything server.

Names, results and questions are those that the official conformance suite expects; tools that
ask the client something do so in either protocol era.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp.server.subscriptions import PromptsListChanged, ResourceUpdated, ToolsListChanged
from mcp_types import (
    AudioContent,
    CallToolRequestParams,
    CallToolResult,
    CreateMessageResult,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    TextContent,
    TextResourceContents,
    Tool,
)

from registry.core.clock import SystemClock
from tests.fakes.everything import content
from tests.fakes.everything.asking import (
    Answers,
    Context,
    Question,
    ask,
    can_answer,
    is_modern,
    require_capability,
)
from tests.fakes.everything.state import session_id

Result: TypeAlias = CallToolResult | InputRequiredResult
Handler: TypeAlias = Callable[[Context, CallToolRequestParams], Awaitable[Result]]

PAUSE_SECONDS = 0.05
WATCHED = "test://watched-resource"
clock = SystemClock()


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool and what it does."""

    tool: Tool
    handler: Handler


TOOLS: dict[str, OfferedTool] = {}


def offer(schema: dict[str, Any] = content.NO_ARGUMENTS) -> Callable[[Handler], Handler]:
    """Return a decorator that offers a function as a tool of its name and docstring."""

    def add(handler: Handler) -> Handler:
        name = getattr(handler, "__name__", "")
        tool = Tool(name=name, description=handler.__doc__, input_schema=schema)
        TOOLS[name] = OfferedTool(tool, handler)
        return handler

    return add


def said(*texts: str) -> CallToolResult:
    """Return a result of lines of text."""
    return CallToolResult(content=[TextContent(text=text) for text in texts])


def arguments(params: CallToolRequestParams) -> dict[str, Any]:
    """Return the arguments of a call."""
    return params.arguments or {}


@offer()
async def test_simple_text(context: Context, params: CallToolRequestParams) -> Result:
    """Return one line of text."""
    return said("This is a simple text response for testing.")


@offer()
async def test_image_content(context: Context, params: CallToolRequestParams) -> Result:
    """Return a picture."""
    return CallToolResult(content=[ImageContent(data=content.PNG, mime_type="image/png")])


@offer()
async def test_audio_content(context: Context, params: CallToolRequestParams) -> Result:
    """Return a sound."""
    return CallToolResult(content=[AudioContent(data=content.WAV, mime_type="audio/wav")])


@offer()
async def test_embedded_resource(context: Context, params: CallToolRequestParams) -> Result:
    """Return a resource."""
    return CallToolResult(content=[_embedded("test://embedded-resource", "text/plain", "Inside.")])


@offer()
async def test_multiple_content_types(context: Context, params: CallToolRequestParams) -> Result:
    """Return text, a picture and a resource."""
    return CallToolResult(
        content=[
            TextContent(text="Multiple content types test:"),
            ImageContent(data=content.PNG, mime_type="image/png"),
            _embedded(
                "test://mixed-content-resource", "application/json", '{"test":"data","value":123}'
            ),
        ]
    )


@offer()
async def test_tool_with_logging(context: Context, params: CallToolRequestParams) -> Result:
    """Log three messages on the way."""
    for number, message in enumerate(("started", "goes on", "ends")):
        if number:
            await clock.sleep(PAUSE_SECONDS)
        await _log(context, f"Tool execution {message}")
    return said("Logged three messages.")


@offer()
async def test_logging_tool(context: Context, params: CallToolRequestParams) -> Result:
    """Log one message."""
    await _log(context, "One message")
    return said("Logged one message.")


@offer()
async def test_error_handling(context: Context, params: CallToolRequestParams) -> Result:
    """Fail."""
    text = "This tool intentionally returns an error for testing"
    return CallToolResult(content=[TextContent(text=text)], is_error=True)


@offer()
async def test_tool_with_progress(context: Context, params: CallToolRequestParams) -> Result:
    """Report progress three times."""
    for progress in (0, 50, 100):
        if progress:
            await clock.sleep(PAUSE_SECONDS)
        await context.session.report_progress(progress, 100, f"At {progress} of 100")
    return said("Reported progress three times.")


@offer()
async def test_wait(context: Context, params: CallToolRequestParams) -> Result:
    """Report progress once and never return; only cancelling ends it."""
    state = context.lifespan_context
    await context.session.report_progress(1, 2, "Waiting")
    state.waiting += 1
    try:
        await state.never.wait()
    finally:
        state.waiting -= 1
        state.cancelled.set()
    return said("Waited.")


@offer(content.text_schema("text"))
async def test_echo(context: Context, params: CallToolRequestParams) -> Result:
    """Say it back."""
    return said(str(arguments(params)["text"]))


@offer(content.text_schema("prompt"))
async def test_sampling(context: Context, params: CallToolRequestParams) -> Result:
    """Ask the client's model."""
    prompt = content.sample(str(arguments(params)["prompt"]))
    answers = await ask(context, params, {"reply": prompt})
    if isinstance(answers, InputRequiredResult):
        return answers
    return said(f"LLM response: {_sampled(answers, 'reply')}")


@offer(content.text_schema("message"))
async def test_elicitation(context: Context, params: CallToolRequestParams) -> Result:
    """Ask the user for a name and an address."""
    schema = content.text_schema("username", "email")
    return await _elicited(context, params, str(arguments(params)["message"]), schema)


@offer()
async def test_elicitation_sep1034_defaults(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask the user for values that all have defaults."""
    schema = {"type": "object", "properties": content.DEFAULTS, "required": []}
    return await _elicited(context, params, "Look at the defaults.", schema)


@offer()
async def test_elicitation_sep1330_enums(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask the user to choose in each of the five ways."""
    schema = {"type": "object", "properties": content.ENUMS, "required": []}
    return await _elicited(context, params, "Choose.", schema)


@offer(content.JSON_SCHEMA_2020_12)
async def json_schema_2020_12_tool(context: Context, params: CallToolRequestParams) -> Result:
    """Take arguments described with all of JSON Schema 2020-12."""
    return said(f"Called with {sorted(arguments(params))}.")


@offer(content.HEADER_ARGUMENTS)
async def test_custom_header(context: Context, params: CallToolRequestParams) -> Result:
    """Take an argument that is mirrored in a header."""
    return said(f"Region {arguments(params)['region']}.")


@offer()
async def test_reconnection(context: Context, params: CallToolRequestParams) -> Result:
    """Close the stream of the call, and answer when the client has come back."""
    if context.close_sse_stream is not None:
        await context.close_sse_stream()
        await clock.sleep(PAUSE_SECONDS)
    return said("Answered after the stream was closed.")


@offer()
async def test_missing_capability(context: Context, params: CallToolRequestParams) -> Result:
    """Refuse clients that did not declare sampling."""
    require_capability(context, content.sample("unused"))
    return said("Sampling is declared.")


@offer()
async def test_streaming_elicitation(context: Context, params: CallToolRequestParams) -> Result:
    """Report progress, then ask the user."""
    await context.session.report_progress(1, 2, "About to ask")
    return await _elicited(context, params, "Who are you?", content.text_schema("name"))


@offer()
async def test_trigger_tool_change(context: Context, params: CallToolRequestParams) -> Result:
    """Tell listeners that the tools changed."""
    await context.lifespan_context.bus.publish(ToolsListChanged())
    if not is_modern(context):
        await context.session.send_tool_list_changed()
    return said("Told.")


@offer()
async def test_trigger_prompt_change(context: Context, params: CallToolRequestParams) -> Result:
    """Tell listeners that the prompts changed."""
    await context.lifespan_context.bus.publish(PromptsListChanged())
    if not is_modern(context):
        await context.session.send_prompt_list_changed()
    return said("Told.")


@offer()
async def test_trigger_resource_update(context: Context, params: CallToolRequestParams) -> Result:
    """Tell subscribers that the watched resource changed."""
    state = context.lifespan_context
    await state.bus.publish(ResourceUpdated(uri=WATCHED))
    if WATCHED in state.subscribed[session_id(context)]:
        await context.session.send_resource_updated(WATCHED)
    return said("Told.")


@offer()
async def test_input_required_result_elicitation(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask the user for a name."""
    question = content.form("What is your name?", content.text_schema("name"))
    answers = await ask(context, params, {"user_name": question})
    if isinstance(answers, InputRequiredResult):
        return answers
    return said(f"Hello, {_entered(answers, 'user_name').get('name')}!")


@offer()
async def test_input_required_result_sampling(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask the client's model for a capital."""
    question = content.sample("What is the capital of France?")
    answers = await ask(context, params, {"capital_question": question})
    if isinstance(answers, InputRequiredResult):
        return answers
    return said(_sampled(answers, "capital_question"))


@offer()
async def test_input_required_result_list_roots(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask the client for its folders."""
    answers = await ask(context, params, {"client_roots": content.roots()})
    if isinstance(answers, InputRequiredResult):
        return answers
    return said(*(str(root.uri) for root in answers["client_roots"].roots))


@offer()
async def test_input_required_result_request_state(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask for a confirmation, and want the state back."""
    return await _confirmed(context, params)


@offer()
async def test_input_required_result_tampered_state(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask for a confirmation, and refuse a state that was changed."""
    return await _confirmed(context, params)


@offer()
async def test_input_required_result_multiple_inputs(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask the user, the model and for the folders at once."""
    questions: dict[str, Question] = {
        "user_name": content.form("What is your name?", content.text_schema("name")),
        "greeting": content.sample("Generate a greeting", 50),
        "client_roots": content.roots(),
    }
    answers = await ask(context, params, questions, "all three")
    if isinstance(answers, InputRequiredResult):
        return answers
    return said(f"{_sampled(answers, 'greeting')} {_entered(answers, 'user_name').get('name')}")


@offer()
async def test_input_required_result_multi_round(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask for a name, then for a color."""
    first = content.form("Step 1: What is your name?", content.text_schema("name"))
    second = content.form("Step 2: What is your favorite color?", content.text_schema("color"))
    known = params.request_state
    if known is None or known == "wants name":
        answers = await ask(context, params, {"step1": first}, "wants name")
        if isinstance(answers, InputRequiredResult):
            return answers
        known = str(_entered(answers, "step1").get("name"))
    answers = await ask(context, params, {"step2": second}, known)
    if isinstance(answers, InputRequiredResult):
        return answers
    return said(f"{known} likes {_entered(answers, 'step2').get('color')}.")


@offer()
async def test_input_required_result_capabilities(
    context: Context, params: CallToolRequestParams
) -> Result:
    """Ask all that the client can answer."""
    possible: dict[str, Question] = {
        "user_name": content.form("What is your name?", content.text_schema("name")),
        "greeting": content.sample("Generate a greeting", 50),
    }
    questions = {key: item for key, item in possible.items() if can_answer(context, item)}
    answers = await ask(context, params, questions)
    if isinstance(answers, InputRequiredResult):
        return answers
    return said(f"Answered: {', '.join(sorted(answers))}.")


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    resource = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(resource=resource)


async def _log(context: Context, message: str) -> None:
    if context.lifespan_context.wants_log(context, "info"):
        params = LoggingMessageNotificationParams(level="info", data=message)
        await context.session.send_notification(
            LoggingMessageNotification(params=params), related_request_id=context.request_id
        )


async def _elicited(
    context: Context, params: CallToolRequestParams, message: str, schema: dict[str, Any]
) -> Result:
    answers = await ask(context, params, {"form": content.form(message, schema)})
    if isinstance(answers, InputRequiredResult):
        return answers
    answer = answers["form"]
    return said(f"Elicitation completed: action={answer.action}, content={answer.content}")


async def _confirmed(context: Context, params: CallToolRequestParams) -> Result:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    question = content.form("Please confirm", schema)
    answers = await ask(context, params, {"confirm": question}, "the state")
    if isinstance(answers, InputRequiredResult):
        return answers
    is_whole = not is_modern(context) or params.request_state == "the state"
    return said("state-ok" if is_whole else "state lost")


def _entered(answers: Answers, key: str) -> dict[str, Any]:
    answer = answers[key]
    assert isinstance(answer, ElicitResult)
    return dict(answer.content or {})


def _sampled(answers: Answers, key: str) -> str:
    answer = answers[key]
    assert isinstance(answer, CreateMessageResult)
    assert isinstance(answer.content, TextContent)
    return answer.content.text
