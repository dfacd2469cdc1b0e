"""A cheap MCP upstream (handshake era and 2026-07-28), so that what is measured is the gateway.

Run as `python -m scripts.bench.upstream PORT`. Below `/many/` it lists `TOOLS_EACH` tools, which
are others at each path, below `/tools/<number>/` as many as that says, below
`/enumerations/<number>/` so many with an enumeration of nearly a megabyte, and below
`/members/<number>/` one with so many arguments.

It is a REST API too: `GET /rest/echo` answers its `text`, `/rest/<number>/openapi.json` describes
that operation and as many more.
"""

import sys
import uuid
from typing import Any
from urllib.parse import parse_qs

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
INFO = {"name": "bench-upstream", "version": "1"}
ECHO = {
    "name": "echo",
    "description": "Return the text unchanged.",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
}
TOOLS_EACH = 100
TOOL_BYTES = 600
MANY = "/many/"
SOME = "/tools/"
SIZED = "/sized/"
ENUMERATIONS = "/enumerations/"
MEMBERS = "/members/"
REST = "/rest/"
REST_ECHO = f"{REST}echo"
ENUMERATED = 90_000
"""Values that a definition of the largest size may have, nearly."""


def _many(path: str) -> list[dict[str, Any]]:
    """Return tools of the size and shape that real servers have in the middle."""
    return [_tool(f"search_{number:03}_records", path) for number in range(TOOLS_EACH)]


def listed(path: str) -> list[dict[str, Any]]:
    """Return the tools of a path."""
    if path.startswith(MANY):
        return _many(path)
    if path.startswith(SOME):
        count = int(path.split("/")[2])
        return [_tool(f"search_{number:03}_records", path) for number in range(count)]
    if path.startswith(SIZED):
        count, size = map(int, path.split("/")[2:4])
        return [_tool(f"search_{number:04}_records", path, size) for number in range(count)]
    if path.startswith(ENUMERATIONS):
        count = int(path.split("/")[2])
        return [_enumeration(f"choose_{number:02}", path) for number in range(count)]
    if path.startswith(MEMBERS):
        # As many members, besides the text.
        more = {
            f"field_{number:02}": {"type": "string", "minLength": 1, "maxLength": 100}
            for number in range(int(path.split("/")[2]) - 1)
        }
        properties = {"text": {"type": "string"}, **more}
        schema = {"type": "object", "properties": properties, "required": ["text"]}
        return [{**ECHO, "inputSchema": schema}]
    return [ECHO]


def _enumeration(name: str, path: str) -> dict[str, Any]:
    values = [f"{name[-2:]}{number:05}" for number in range(ENUMERATED)]
    properties = {"value": {"type": "string", "enum": values, "description": path}}
    return {"name": name, "inputSchema": {"type": "object", "properties": properties}}


def _tool(name: str, path: str, size: int = TOOL_BYTES) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": f"What to look for below {path}."},
            "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
            "filters": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["query"],
    }
    tool = {"name": name, "description": "", "inputSchema": schema}
    missing = size - len(orjson.dumps(tool))
    tool["description"] = ("Searches the records of this service. " * (size // 30))[:missing]
    return tool


def description(count: int, server: str) -> dict[str, Any]:
    """Return the description of an API with `echo` and *count* operations of the usual shape."""
    text = {"name": "text", "in": "query", "required": True, "schema": {"type": "string"}}
    record = {"$ref": "#/components/schemas/Record"}
    answer = {
        "200": {"description": "Found.", "content": {"application/json": {"schema": record}}}
    }
    paths: dict[str, Any] = {
        REST_ECHO: {"get": {"operationId": "echo", "parameters": [text], "responses": {}}}
    }
    for number in range(count):
        key = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        limit = {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}}
        paths[f"{REST}records-{number // 2}/{{id}}"] = paths.get(
            f"{REST}records-{number // 2}/{{id}}", {"parameters": [key]}
        ) | {
            ("put" if number % 2 else "get"): {
                "operationId": f"record_{number:04}",
                "summary": f"Work on a record of the kind {number}",
                "description": "Searches the records of this service. " * 6,
                "parameters": [limit],
                "responses": answer,
                **(
                    {"requestBody": {"content": {"application/json": {"schema": record}}}}
                    if number % 2
                    else {}
                ),
            }
        }
    fields = {f"field_{number}": {"type": "string", "maxLength": 100} for number in range(10)}
    properties = {**fields, "next": {"$ref": "#/components/schemas/Next"}}
    schemas = {
        "Record": {"type": "object", "properties": properties, "required": ["field_0"]},
        "Next": {"type": "object", "properties": {"id": {"type": "string"}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Records", "version": "1"},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


async def _rest(scope: Scope, send: Send) -> None:
    path: str = scope["path"]
    if path == REST_ECHO:
        text = parse_qs(scope["query_string"].decode())["text"][0]
        await _send(send, 200, orjson.dumps({"text": text}))
        return
    host, port = scope["server"]
    count = int(path.split("/")[2])
    await _send(send, 200, orjson.dumps(description(count, f"http://{host}:{port}")))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer JSON-RPC requests; everything else gets an empty 202 or 405."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"].startswith(REST) and scope["method"] == "GET":
        await _rest(scope, send)
        return
    if scope["method"] != "POST":
        await _send(send, 405, b"")
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    call = orjson.loads(body)
    if "id" not in call:
        await _send(send, 202, b"")
        return
    headers: list[tuple[bytes, bytes]] = []
    if call["method"] == "initialize":
        headers.append((b"mcp-session-id", uuid.uuid4().hex.encode()))
    answer = {"jsonrpc": "2.0", "id": call["id"], **_result(call, scope["path"])}
    await _send(send, 200, orjson.dumps(answer), headers)


def _result(call: dict[str, Any], path: str) -> dict[str, Any]:
    params = call.get("params") or {}
    match call["method"]:
        case "initialize":
            wanted = params.get("protocolVersion")
            result: dict[str, Any] = {
                "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[-1],
                "capabilities": {"tools": {}},
                "serverInfo": INFO,
            }
        case "server/discover":
            result = {
                "supportedVersions": [MODERN],
                "capabilities": {"tools": {}},
                "_meta": {"io.modelcontextprotocol/serverInfo": INFO},
                "ttlMs": 60_000,
                "cacheScope": "public",
            }
        case "tools/list":
            tools = listed(path)
            result = {"tools": tools, "ttlMs": 60_000, "cacheScope": "public"}
        case "tools/call":
            text = params["arguments"]["text"]
            result = {"content": [{"type": "text", "text": text}], "isError": False}
        case _:
            return {"error": {"code": -32601, "message": "Method not found"}}
    if "_meta" in params:
        result["resultType"] = "complete"
    return {"result": result}


async def _send(
    send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False
    )
