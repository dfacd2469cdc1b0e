"""Pages for people: the start page and Swagger UI. Open, like health."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from registry.web.errors import JsonAnswer

STATIC = Path(fastapi_offline.__file__).parent / "static"
"""Swagger UI from its Python package: our pages load nothing from other hosts."""

FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

LINKS = {
    "api": "/docs",
    "openapi": "/api/v1/openapi.json",
    "health": "/health",
    "gateway": "/mcp",
    "keys": "/.well-known/jwks.json",
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MCP gateway registry</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem;
  color: #1d2733; background: #fff; }}
h1 {{ font-size: 1.6rem; margin-bottom: 0; }} .version {{ color: #5b6877; margin-top: 0; }}
code, pre {{ font-family: ui-monospace, monospace; background: #f1f4f7; border-radius: 4px; }}
code {{ padding: .1em .3em; }} pre {{ padding: .8rem; overflow-x: auto; }}
li {{ margin: .3rem 0; }} a {{ color: #0b57d0; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #dfe6ee; background: #14191f; }}
  code, pre {{ background: #232b34; }} a {{ color: #8ab4f8; }} .version {{ color: #9aa7b5; }} }}
</style>
</head>
<body>
<h1>MCP gateway registry</h1>
<p class="version">Version {version}</p>
<p>MCP servers are registered here once, with their credentials. MCP clients reach the tools of
all of them at <code>{base}/mcp</code>, and those of one at
<code>{base}/mcp/&lt;server&gt;</code>; each caller sees and calls what policy allows.</p>
<ul>
<li><a href="docs">API description</a>, to read and to try out
(<a href="api/v1/openapi.json">OpenAPI document</a>)</li>
<li><a href="health">Health</a></li>
</ul>
<h2>Connect a client</h2>
<p>Every request needs a bearer token. An operator makes one with
<code>registry token create</code>, and prints the configuration of a client with
<code>registry client-config --client claude</code> (or <code>cursor</code>, <code>vscode</code>,
<code>codex</code>). For Claude Code:</p>
<pre>claude mcp add --transport http registry {base}/mcp \\
  --header "Authorization: Bearer TOKEN"</pre>
</body>
</html>
"""


class Welcome(BaseModel):
    """Version and links of this registry."""

    name: str
    version: str
    links: dict[str, str]


def welcome_router(version: str, base_url: str) -> APIRouter:
    """Return the routes `/`, `/docs` and its files.

    Args:
        version: Of this program.
        base_url: Where clients reach it; an operator's setting.
    """
    router = APIRouter(tags=["welcome"])
    page = PAGE.format(version=version, base=base_url)

    # Probes of load balancers and link checkers send HEAD.
    @router.head("/", include_in_schema=False)
    @router.get("/", operation_id="welcome", response_model=Welcome)
    async def welcome(request: Request) -> Response:
        """Return the start page, as HTML to browsers, as JSON to other clients."""
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(page, headers={**SECURITY_HEADERS, "Vary": "Accept"})
        return JsonAnswer(
            {"name": "mcp-gateway-registry", "version": version, "links": LINKS},
            headers={"Vary": "Accept"},
        )

    @router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> Response:
        """Show the API with Swagger UI."""
        answer = get_swagger_ui_html(
            openapi_url="api/v1/openapi.json",
            title="MCP gateway registry: API",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon.png",
        )
        answer.headers.update(SECURITY_HEADERS)
        return answer

    @router.api_route("/docs/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs_file(name: str) -> Response:
        """Return one of Swagger UI's own files."""
        media_type = FILES.get(name)
        if media_type is None:
            return JsonAnswer(
                {"error": "not_found", "message": "No route matches this path."}, 404
            )
        return FileResponse(STATIC / name, media_type=media_type, headers=SECURITY_HEADERS)

    return router
