"""FastMCP's `from_openapi`, as a program of its own: it runs where FastMCP is installed.

`serve PORT DESCRIPTION` serves the tools of a description, fetched from a URL, at `/mcp`. Without
arguments it reads lines of JSON: `{"document": PATH}` converts a description and answers its
tools with what that took, `{"tool": NUMBER, "arguments": {...}}` answers the request that a call
makes. Imports nothing of the registry.
"""

import asyncio
import base64
import json
import sys
import time
import urllib.request
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
HOST = "https://api.example.com"
CALL_SECONDS = 10.0


class Side:
    """The tools of one description after the other.

    Args:
        fastmcp: The module.
        http: The module of the HTTP client that it wants.
    """

    def __init__(self, fastmcp: Any, http: Any) -> None:
        self._fastmcp = fastmcp
        self._http = http
        self._tools: list[Any] = []
        self._seen: list[Any] = []

    def _answer(self, request: Any) -> Any:
        self._seen.append(request)
        return self._http.Response(200, json={})

    async def convert(self, document: dict[str, Any]) -> dict[str, Any]:
        """Convert a description."""
        document["servers"] = [{"url": HOST}]
        transport = self._http.MockTransport(self._answer)
        client = self._http.AsyncClient(transport=transport, base_url=HOST)
        began_at = time.process_time()
        server = self._fastmcp.FastMCP.from_openapi(openapi_spec=document, client=client)
        self._tools = list(await server.list_tools())
        spent = time.process_time() - began_at
        tools = [
            {
                "method": tool._route.method,  # noqa: SLF001 - said nowhere else
                "path": tool._route.path,  # noqa: SLF001 - said nowhere else
                "schema": tool.parameters,
            }
            for tool in self._tools
        ]
        return {"cpu": spent, "tools": tools}

    async def request(self, number: int, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool, and return the request that came of it."""
        self._seen.clear()
        try:
            await asyncio.wait_for(self._tools[number].run(arguments), CALL_SECONDS)
        except Exception:
            # What is said of the empty answer does not matter.
            if not self._seen:
                raise
        sent = self._seen[0]
        return {
            "method": sent.method,
            "target": sent.url.raw_path.decode(),
            "headers": [[name, value] for name, value in sent.headers.items()],
            "content": base64.b64encode(sent.read()).decode(),
        }

    async def lines(self) -> None:
        """Answer lines until there are no more."""
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                if "document" in asked:
                    answer = await self.convert(_read(asked["document"]))
                else:
                    answer = await self.request(asked["tool"], asked["arguments"])
            except Exception as exc:  # noqa: BLE001 - whatever it raises is the answer
                answer = {"error": f"{type(exc).__name__}: {str(exc)[:300]}"}
            print(json.dumps(answer, default=str), flush=True)


def _read(path: str) -> dict[str, Any]:
    return dict(json.loads(Path(path).read_text()))


def serve(fastmcp: Any, http: Any, port: int, description: str) -> None:
    """Serve the tools of a description without sessions, answers as JSON."""
    import uvicorn  # noqa: PLC0415 - of the other environment

    with urllib.request.urlopen(description, timeout=30) as answer:  # noqa: S310 - loopback
        document = json.load(answer)
    origin = description.partition("/rest/")[0]
    client = http.AsyncClient(base_url=origin)
    server = fastmcp.FastMCP.from_openapi(openapi_spec=document, client=client)
    app = server.http_app(path="/mcp", stateless_http=True, json_response=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def main() -> None:
    """Do what the arguments say."""
    fastmcp = import_module("fastmcp")
    # Later releases want the second.
    http = import_module("httpx2" if find_spec("httpx2") else "httpx")
    if sys.argv[1:2] == ["serve"]:
        serve(fastmcp, http, int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["version"]:
        print(fastmcp.__version__)
    else:
        asyncio.run(Side(fastmcp, http).lines())


if __name__ == "__main__":
    main()
