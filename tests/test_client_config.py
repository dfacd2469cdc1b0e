"""What clients are told to connect with."""

import json
import tomllib

import pytest

from registry.cli.clients import ClientKind, configuration

URL = "http://127.0.0.1:7860/mcp"


def test_claude_code_gets_one_line_to_paste() -> None:
    line = configuration(ClientKind.CLAUDE, "registry", URL, "abc")

    assert line == (
        "claude mcp add --transport http registry http://127.0.0.1:7860/mcp "
        "--header 'Authorization: Bearer abc'"
    )


@pytest.mark.parametrize(
    ("client", "member"),
    [
        (ClientKind.CURSOR, "mcpServers"),
        (ClientKind.VSCODE, "servers"),
        (ClientKind.MCP_JSON, "mcpServers"),
    ],
)
def test_a_file_of_json_names_address_and_header(client: ClientKind, member: str) -> None:
    entry = json.loads(configuration(client, "registry", URL, "abc"))[member]["registry"]

    assert (entry["url"], entry["headers"]) == (URL, {"Authorization": "Bearer abc"})


def test_codex_gets_toml() -> None:
    told = tomllib.loads(configuration(ClientKind.CODEX, "registry-demo", URL, 'a"b'))

    assert told["mcp_servers"]["registry-demo"] == {
        "url": URL,
        "http_headers": {"Authorization": 'Bearer a"b'},
    }
