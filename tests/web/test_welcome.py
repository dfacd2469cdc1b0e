"""The first page, and the API to try out."""

import re

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from registry.web.welcome import welcome_router

BASE = "https://registry.example"


@pytest_asyncio.fixture
async def client() -> httpx.AsyncClient:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
    app.include_router(welcome_router("1.2.3", BASE))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


async def test_a_browser_gets_a_page_that_says_what_this_is(client: httpx.AsyncClient) -> None:
    answer = await client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Version 1.2.3" in answer.text
    assert f"{BASE}/mcp" in answer.text
    assert set(re.findall(r'href="([^"]+)"', answer.text)) == {
        "docs",
        "health",
        "api/v1/openapi.json",
    }


async def test_a_program_gets_json(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/")).json()

    assert (answer["name"], answer["version"]) == ("mcp-gateway-registry", "1.2.3")
    assert answer["links"]["openapi"] == "/api/v1/openapi.json"


async def test_the_api_is_shown_without_loading_anything_from_elsewhere(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/docs")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert sorted(loaded) == [
        "docs/favicon.png",
        "docs/swagger-ui-bundle.js",
        "docs/swagger-ui.css",
    ]
    assert [(await client.get(f"/{path}")).status_code for path in loaded] == [200, 200, 200]
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2F__init__.py", "x"])
async def test_no_other_file_is_answered(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/docs/{name}")).status_code == 404
