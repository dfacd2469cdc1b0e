"""FastMCP's client, run with the Python of its own environment.

Usage: python client.py '{"url":…,"token":…,"mode":…,"prefix":…}'; prints what it saw.
"""

import asyncio
import json
import sys
from typing import Any

OPTIONS = json.loads(sys.argv[1])
LOGGED = {"io.modelcontextprotocol/logLevel": "info"}


async def converse() -> dict[str, Any]:
    """Do everything and return what was seen."""
    import fastmcp  # type: ignore[import-not-found] # it has an environment of its own
    from fastmcp.client.transports import (  # type: ignore[import-not-found] # as above
        StreamableHttpTransport,
    )
    from mcp_types import PromptReference

    logged: list[object] = []

    async def entered(_message: object, _type: object, params: Any, _context: object) -> Any:
        return {name: OPTIONS["entered"][name] for name in params.requested_schema["properties"]}

    async def sampled(*_request: object) -> Any:
        return OPTIONS["sampled"]

    async def log(message: object) -> None:
        logged.append(message)

    transport = StreamableHttpTransport(
        OPTIONS["url"], headers={"Authorization": f"Bearer {OPTIONS['token']}"}
    )
    client = fastmcp.Client(
        transport,
        mode=OPTIONS["mode"],
        elicitation_handler=entered,
        sampling_handler=sampled,
        roots=[OPTIONS["root"]],
        log_handler=log,
    )
    async with client:
        report = await everything(client, PromptReference)
    return report | {"logged": len(logged)}


async def everything(client: Any, prompt_reference: Any) -> dict[str, Any]:
    """Return what a connected client sees."""
    prefix = OPTIONS["prefix"]
    progress: list[float] = []

    async def say(name: str, arguments: Any = None, **more: Any) -> str:
        result = await client.call_tool(prefix + name, arguments or {}, **more)
        return str(result.content[0].text)

    async def note(done: float, _total: object, _message: object) -> None:
        progress.append(done)

    def plain(items: Any) -> list[str]:
        return sorted(item.name.removeprefix(prefix) for item in items)

    arguments = {"arg1": "a", "arg2": "b"}
    prompt = await client.get_prompt(f"{prefix}test_prompt_with_arguments", arguments)
    asking = await client.get_prompt(f"{prefix}test_input_required_result_prompt")
    reference = prompt_reference(name=f"{prefix}test_prompt_with_arguments")
    completed = await client.complete(reference, {"name": "arg1", "value": "pa"})
    report = {
        "tools": plain(await client.list_tools()),
        "echo": await say("test_echo", {"text": "hello"}),
        "cancelled": await cancel(client),
        "prompts": plain(await client.list_prompts()),
        "prompt": prompt.messages[0].content.text,
        "asking_prompt": asking.messages[0].content.text,
        "completed": completed.values,
        "resources": sorted(str(item.uri) for item in await client.list_resources()),
        "templates": [item.uri_template for item in await client.list_resource_templates()],
        "resource": (await client.read_resource("test://static-text"))[0].text,
        "elicited": await say("test_elicitation", {"message": "Who are you?"}),
        "sampled": await say("test_sampling", {"prompt": "Say something."}),
        "roots": await say("test_input_required_result_list_roots"),
        "rounds": await say("test_input_required_result_multi_round"),
    }
    await say("test_tool_with_progress", progress_handler=note)
    await say("test_tool_with_logging", meta=LOGGED)
    return report | {"progress": progress}


async def cancel(client: Any) -> bool:
    """Call the tool that never returns, cancel the call, and say whether that ended it."""
    started = asyncio.Event()

    async def note(*_progress: object) -> None:
        started.set()

    name = f"{OPTIONS['prefix']}test_wait"
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call_tool(name, {}, progress_handler=note))
        await started.wait()
        call.cancel()
    return bool(call.cancelled())


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(asyncio.run(converse()))}\n")
