"""Command `client-config`: prints the configuration of MCP clients for this registry."""

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.running import fail, read_settings

NAME = "registry"
TOKEN = "TOKEN"  # noqa: S105 - stands for one
"""Printed where no token is known."""


class ClientKind(StrEnum):
    """Clients whose configuration is known."""

    CLAUDE = "claude"
    CURSOR = "cursor"
    VSCODE = "vscode"
    CODEX = "codex"
    MCP_JSON = "mcp-json"


def client_config(
    *,
    client: Annotated[ClientKind, typer.Option(help="For which client.")] = ClientKind.MCP_JSON,
    server: Annotated[
        str, typer.Option(help="Only this server: the last part of its path; default: all.")
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File of a bearer token; default: the administrator's of local mode."),
    ] = None,
    without_token: Annotated[
        bool, typer.Option("--without-token", help=f"Print {TOKEN} for the token.")
    ] = False,
) -> None:
    """Print how a client connects: a command, or the text of a file. It holds the token."""
    settings = read_settings()
    url = f"{settings.base_url}/mcp{'/' if server else ''}{server}"
    file = token_file or settings.registry_home / "admin.token"
    token = TOKEN
    if not without_token and (token_file is not None or file.exists()):
        try:
            token = file.read_text(encoding="utf-8").strip()
        except OSError as exc:
            fail(f"{file}: {exc.strerror}")
    typer.echo(configuration(client, f"{NAME}-{server}" if server else NAME, url, token))


def configuration(client: ClientKind, name: str, url: str, token: str) -> str:
    """Return the text for a client."""
    header = f"Bearer {token}"
    entry = {"type": "http", "url": url, "headers": {"Authorization": header}}
    match client:
        case ClientKind.CLAUDE:
            words = ["claude", "mcp", "add", "--transport", "http", name, url]
            return shlex.join([*words, "--header", f"Authorization: {header}"])
        case ClientKind.CODEX:
            lines = [
                "# ~/.codex/config.toml",
                f"[mcp_servers.{name}]",
                f"url = {json.dumps(url)}",
                f'http_headers = {{ "Authorization" = {json.dumps(header)} }}',
            ]
            return "\n".join(lines)
        case ClientKind.VSCODE:
            # .vscode/mcp.json
            return json.dumps({"servers": {name: entry}}, indent=2)
        case ClientKind.CURSOR:
            # .cursor/mcp.json; the transport is recognized by the address.
            return json.dumps(
                {"mcpServers": {name: {"url": url, "headers": entry["headers"]}}}, indent=2
            )
        case ClientKind.MCP_JSON:
            # .mcp.json of Claude Code, and of most other clients.
            return json.dumps({"mcpServers": {name: entry}}, indent=2)
