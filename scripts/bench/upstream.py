"""A cheap MCP upstream (handshake era and 2026-07-28), so that what is measured is the gateway.

Run as `python -m scripts.bench.upstream PORT`.
"""

import sys
import uuid
from typing import Any

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


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer JSON-RPC requests; everything else gets an empty 202 or 405."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
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
    answer = {"jsonrpc": "2.0", "id": call["id"], **_result(call)}
    await _send(send, 200, orjson.dumps(answer), headers)


def _result(call: dict[str, Any]) -> dict[str, Any]:
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
            result = {"tools": [ECHO], "ttlMs": 60_000, "cacheScope": "public"}
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
