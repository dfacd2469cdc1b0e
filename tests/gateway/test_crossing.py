"""Official clients of one era, or transport, with servers of another, through the gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    ResourceTemplateReference,
    Root,
    TextContent,
)
from pydantic import FileUrl

from tests.fakes.everything.serving import RunningEverything
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.meeting import Kind, Speech, connected, everything, route_to, text

WAIT_SECONDS = 30
CELLS = (
    (Speech.LEGACY, Kind.MODERN),
    (Speech.LEGACY, Kind.OLD),
    (Speech.MODERN, Kind.LEGACY),
    (Speech.MODERN, Kind.OLD),
)
PATHS = {"/mcp/demo": "", "/mcp": "demo__"}
MEETINGS = [
    pytest.param(speech, kind, path, id=f"{speech} client, {kind} server, {path}")
    for speech, kind in CELLS
    for path in PATHS
]


@dataclass
class Meeting:
    """A client that is connected, and the server behind the gateway."""

    client: Client
    running: RunningEverything
    gateway: Gateway
    prefix: str
    speech: Speech
    kind: Kind

    async def call(self, tool: str, arguments: Any = None, **options: Any) -> Any:
        """Call a tool by the server's name for it."""
        return await self.client.call_tool(self.prefix + tool, arguments or {}, **options)


@dataclass
class Answers:
    """What a client answers when it is asked, and what it was asked."""

    asked: list[Any]

    async def elicited(self, _context: Any, params: Any) -> ElicitResult:
        """Fill in the form, or visit the page."""
        self.asked.append(params)
        if params.mode == "url":
            return ElicitResult(action="accept")
        values = {"name": "Ann", "color": "blue", "context": "tea", "ok": True}
        wanted = params.requested_schema["properties"]
        content: Any = {name: values.get(name, name) for name in wanted}
        return ElicitResult(action="accept", content=content)

    async def sampled(self, _context: Any, params: Any) -> CreateMessageResult:
        """Say what the model says."""
        self.asked.append(params)
        content = TextContent(text="a model's words")
        return CreateMessageResult(role="assistant", content=content, model="m")

    async def rooted(self, _context: Any) -> ListRootsResult:
        """Name the folder."""
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///home"))])

    @property
    def options(self) -> dict[str, Any]:
        """As the client takes them."""
        return {
            "elicitation_callback": self.elicited,
            "sampling_callback": self.sampled,
            "list_roots_callback": self.rooted,
        }


@pytest.fixture
async def answers() -> Answers:
    """Return a client's answers."""
    return Answers([])


@pytest.fixture
async def meet(stack: AsyncExitStack, start_gateway: StartGateway) -> Any:
    """Return what brings a client and a server together."""

    @asynccontextmanager
    async def meeting(
        speech: Speech, kind: Kind, path: str = "/mcp/demo", **options: Any
    ) -> AsyncIterator[Meeting]:
        changes = options.pop("route", {})
        running = await stack.enter_async_context(everything(kind))
        gateway = await start_gateway(route_to(kind, running.url, **changes))
        async with asyncio.timeout(30), connected(gateway.url, speech, path, **options) as client:
            yield Meeting(client, running, gateway, PATHS[path], speech, kind)

    return meeting


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_everything_that_is_listed_can_be_used(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    async with meet(speech, kind, path) as it:
        tools = await it.client.list_tools()
        prompts = await it.client.list_prompts()
        resources = await it.client.list_resources()
        templates = await it.client.list_resource_templates()
        said = await it.call("test_echo", {"text": "schön"})
        prompt = await it.client.get_prompt(
            f"{it.prefix}test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}
        )
        resource = await it.client.read_resource("test://static-text")
        templated = await it.client.read_resource("test://template/7/data")
        reference = ResourceTemplateReference(uri="test://template/{id}/data")
        completed = await it.client.complete(reference, {"name": "id", "value": "par"})

    assert f"{it.prefix}test_echo" in {tool.name for tool in tools.tools}
    assert f"{it.prefix}test_simple_prompt" in {one.name for one in prompts.prompts}
    assert "test://static-text" in {str(one.uri) for one in resources.resources}
    assert templates.resource_templates[0].uri_template == "test://template/{id}/data"
    assert text(said) == "schön"
    assert "arg1='a', arg2='b'" in prompt.messages[0].content.text
    assert resource.contents[0].text.startswith("This is the content")
    assert "Data for ID: 7" in templated.contents[0].text
    assert completed.completion.values == ["paris", "park", "party"]


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_each_kind_of_content_arrives(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    async with meet(speech, kind, path) as it:
        mixed = await it.call("test_multiple_content_types")
        failed = await it.call("test_error_handling")

    assert [block.type for block in mixed.content] == ["text", "image", "resource"]
    assert failed.is_error


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_progress_arrives_before_the_result(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with meet(speech, kind, path) as it:
        await it.call("test_tool_with_progress", progress_callback=note)

    assert seen == [(at, 100, f"At {at} of 100") for at in (0, 50, 100)]


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_the_user_the_model_and_the_folders_can_be_asked(
    meet: Any, answers: Answers, speech: Speech, kind: Kind, path: str
) -> None:
    async with meet(speech, kind, path, **answers.options) as it:
        elicited = await it.call("test_elicitation", {"message": "Who are you?"})
        sampled = await it.call("test_sampling", {"prompt": "Say"})
        rooted = await it.call("test_input_required_result_list_roots")
        reported = await it.call("test_streaming_elicitation")

    assert "action=accept" in text(elicited)
    assert "'username': 'username'" in text(elicited)
    assert answers.asked[0].message == "Who are you?"
    assert text(sampled) == "LLM response: a model's words"
    assert text(rooted) == "file:///home"
    assert "'name': 'Ann'" in text(reported)


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_a_server_may_ask_several_times_and_several_things(
    meet: Any, answers: Answers, speech: Speech, kind: Kind, path: str
) -> None:
    async with meet(speech, kind, path, **answers.options) as it:
        rounds = await it.call("test_input_required_result_multi_round")
        inputs = await it.call("test_input_required_result_multiple_inputs")
        state = await it.call("test_input_required_result_request_state")
        prompt = await it.client.get_prompt(f"{it.prefix}test_input_required_result_prompt")

    assert text(rounds) == "Ann likes blue."
    assert text(inputs) == "a model's words Ann"
    assert text(state) == "state-ok"
    assert prompt.messages[0].content.text == "Use this context: tea"


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_what_the_client_did_not_declare_is_not_asked(
    meet: Any, answers: Answers, speech: Speech, kind: Kind, path: str
) -> None:
    async with meet(speech, kind, path, sampling_callback=answers.sampled) as it:
        possible = await it.call("test_input_required_result_capabilities")
        with suppress(MCPError):
            assert (await it.call("test_elicitation", {"message": "Who?"})).is_error

    assert text(possible) == "Answered: greeting."
    assert len(answers.asked) == 1


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_a_user_who_declines_is_heard(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    async def decline(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="decline")

    async with meet(speech, kind, path, elicitation_callback=decline) as it:
        result = await it.call("test_elicitation", {"message": "Who?"})

    assert "action=decline" in text(result)


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_a_call_that_is_given_up_is_cancelled_at_the_server(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    begun = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    async with meet(speech, kind, path) as it:
        calling = asyncio.ensure_future(it.call("test_wait", progress_callback=note))
        await begun.wait()
        calling.cancel()
        async with asyncio.timeout(WAIT_SECONDS):
            await it.running.state.cancelled.wait()
        after = await it.call("test_echo", {"text": "still here"})

    assert text(after) == "still here"
    assert it.running.state.waiting == 0


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_many_calls_at_once_get_their_own_answers(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    texts = [f"text {number}" for number in range(20)]

    async with meet(speech, kind, path) as it:
        results = await asyncio.gather(*(it.call("test_echo", {"text": sent}) for sent in texts))

    assert [text(result) for result in results] == texts


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_a_hidden_tool_is_an_unknown_tool(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    async with meet(speech, kind, path, route={"tools": []}) as it:
        listed = await it.client.list_tools()
        hidden = await _fails(it.call("test_echo", {"text": "x"}))
        unknown = await _fails(it.call("nothing", {"text": "x"}))

    assert listed.tools == []
    assert hidden.error.code == unknown.error.code == -32602
    assert hidden.error.message == f"Unknown tool: {it.prefix}test_echo"


@pytest.mark.parametrize(("speech", "kind", "path"), MEETINGS)
async def test_what_is_not_there_has_the_code_of_the_clients_era(
    meet: Any, speech: Speech, kind: Kind, path: str
) -> None:
    async with meet(speech, kind, path) as it:
        resource = await _fails(it.client.read_resource("test://nothing"))
        prompt = await _fails(it.client.get_prompt(f"{it.prefix}nothing"))

    # The everything server says -32602 in either era, which only the stateless one has for it.
    said_by_server = speech is Speech.LEGACY and kind is Kind.OLD and path != "/mcp"
    expected = -32602 if speech is Speech.MODERN or said_by_server else -32002
    assert resource.error.code == expected
    assert prompt.error.code == -32602


@pytest.mark.parametrize("path", PATHS)
async def test_arguments_are_mirrored_in_headers_for_a_server_that_wants_it(
    meet: Any, path: str
) -> None:
    async with meet(Speech.LEGACY, Kind.MODERN, path) as it:
        result = await it.call("test_custom_header", {"region": "Zürich", "note": "x"})

    assert text(result) == "Region Zürich."


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_that_the_server_ends_for_a_while_is_taken_up_again(
    meet: Any, path: str
) -> None:
    async with meet(Speech.MODERN, Kind.LEGACY, path) as it:
        result = await it.call("test_reconnection")

    assert text(result) == "Answered after the stream was closed."


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("speech", [Speech.LEGACY, Speech.AUTO, Speech.OLD])
async def test_the_server_is_introduced(meet: Any, speech: Speech, kind: Kind) -> None:
    async with meet(speech, kind) as it:
        capabilities = it.client.server_capabilities
        instructions = it.client.instructions
        result = await it.call("test_echo", {"text": "x"})

    assert capabilities.tools is not None
    assert capabilities.completions is not None
    assert instructions == "Everything, for tests."
    assert text(result) == "x"


async def _fails(awaited: Any) -> MCPError:
    with pytest.raises(MCPError) as caught:
        await awaited
    return caught.value
