"""The Python SDK's client, in this process."""

import asyncio
from typing import Any

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    Root,
    TextContent,
)

from tests.clients.report import ENTERED, ROOT, SAMPLED, Report

LOGGED: Any = {"io.modelcontextprotocol/logLevel": "info"}


async def converse(url: str, token: str, mode: str, prefix: str) -> Report:
    """Do everything with a server and return what was seen."""
    logged: list[object] = []

    async def log(params: object) -> None:
        logged.append(params)

    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(
            streamable_http_client(url, http_client=http),
            mode=mode,
            elicitation_callback=_entered,
            sampling_callback=sampled,
            list_roots_callback=_roots,
            logging_callback=log,
        ) as client,
    ):
        report = await _everything(client, prefix)
    return report | {"logged": len(logged)}


async def _everything(client: Client, prefix: str) -> Report:
    progress: list[float] = []

    async def say(name: str, arguments: dict[str, Any] | None = None, **more: Any) -> str:
        result: Any = await client.call_tool(prefix + name, arguments or {}, **more)
        return str(result.content[0].text)

    async def note(done: float, _total: float | None, _message: str | None) -> None:
        progress.append(done)

    def plain(items: Any) -> list[str]:
        return sorted(item.name.removeprefix(prefix) for item in items)

    arguments = {"arg1": "a", "arg2": "b"}
    prompt: Any = await client.get_prompt(f"{prefix}test_prompt_with_arguments", arguments)
    asking: Any = await client.get_prompt(f"{prefix}test_input_required_result_prompt")
    reference = PromptReference(name=f"{prefix}test_prompt_with_arguments")
    completed = await client.complete(reference, {"name": "arg1", "value": "pa"})
    resources = (await client.list_resources()).resources
    templates = (await client.list_resource_templates()).resource_templates
    read: Any = await client.read_resource("test://static-text")
    report = {
        "tools": plain((await client.list_tools()).tools),
        "echo": await say("test_echo", {"text": "hello"}),
        "cancelled": await _cancel(client, f"{prefix}test_wait"),
        "prompts": plain((await client.list_prompts()).prompts),
        "prompt": prompt.messages[0].content.text,
        "asking_prompt": asking.messages[0].content.text,
        "completed": completed.completion.values,
        "resources": sorted(str(item.uri) for item in resources),
        "templates": [item.uri_template for item in templates],
        "resource": read.contents[0].text,
        "elicited": await say("test_elicitation", {"message": "Who are you?"}),
        "sampled": await say("test_sampling", {"prompt": "Say something."}),
        "roots": await say("test_input_required_result_list_roots"),
        "rounds": await say("test_input_required_result_multi_round"),
    }
    await say("test_tool_with_progress", progress_callback=note)
    await say("test_tool_with_logging", meta=LOGGED)
    return report | {"progress": progress}


async def _cancel(client: Client, name: str) -> bool:
    started = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        started.set()

    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call_tool(name, {}, progress_callback=note))
        await started.wait()
        call.cancel()
    return call.cancelled()


async def _entered(context: Any, params: Any) -> ElicitResult:
    names = params.requested_schema["properties"]
    return ElicitResult(action="accept", content={name: ENTERED[name] for name in names})


async def sampled(context: Any, params: Any) -> CreateMessageResult:
    """Answer as a model would."""
    return CreateMessageResult(
        role="assistant", model="a-model", content=TextContent(text=SAMPLED)
    )


async def _roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root.model_validate({"uri": ROOT})])
