"""Commands about a person's connections to servers, through the running registry."""

import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from registry.cli.output import AsJson, Column, show_fields, show_json, show_rows, text
from registry.cli.references import caller_token
from registry.cli.running import CONFLICT, FAILED, NOT_FOUND, fail, read_settings, run
from registry.core.clock import SystemClock

Server = Annotated[str, typer.Argument(metavar="SERVER", help="Name or id.")]
Token = Annotated[
    str | None,
    typer.Option(
        help="Who connects: env:NAME, file:PATH, - to be asked; "
        "default: the administrator of local mode."
    ),
]
Url = Annotated[str | None, typer.Option(help="Address of the registry; default: PUBLIC_URL.")]


def _authorization(row: Any) -> str | None:
    if row.get("authorized") is None:
        return None
    if row.get("needsReauth"):
        return "again"
    return "yes" if row["authorized"] else "no"


COLUMNS = [
    Column("Name", "serverName"),
    Column("State", "connectionState"),
    Column("Authorised", _authorization),
    Column("Problem", "error", wraps=True),
    Column("Id", "serverId"),
]

POLL_SECONDS = 1.0

EXIT_CODES = {404: NOT_FOUND, 409: CONFLICT}


def connect(
    server: Server,
    *,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, and open no browser.")
    ] = False,
    token: Token = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Connect to a server; authorise the registry there in the browser first if necessary.

    Waits until the browser is done. Exit code 1 when there is no connection.
    """

    async def work() -> None:
        api = registry_api(token, url)
        found = await api.server(server)
        path = f"/mcp/{found['serverId']}"
        state = await api.ask("POST", f"{path}/reinitialize")
        if state["oauthRequired"]:
            begun = await api.ask("GET", f"{path}/oauth/initiate")
            _show_address(begun["authorizationUrl"], opens=not no_browser)
            await _wait(api, begun["flowId"], str(found["serverName"]))
            state = await api.ask("GET", f"/mcp/connection/status/{found['serverId']}")
        if as_json:
            show_json(state)
        problem = state.get("error")
        if problem is not None:
            fail(text(f"{found['serverName']} cannot be connected to: {problem}"))
        if not as_json:
            typer.echo(text(f"{found['serverName']} is {state['connectionStatus']}"))

    run(work)


def connections(*, token: Token = None, url: Url = None, as_json: AsJson = False) -> None:
    """List the connections to servers, and who has to authorise the registry."""

    async def work() -> None:
        rows = await registry_api(token, url).servers()
        show_rows(sorted(rows, key=lambda row: str(row["serverName"])), COLUMNS, as_json=as_json)

    run(work)


def disconnect(
    server: Server, *, token: Token = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Remove and revoke the access to a server that was given in the browser."""

    async def work() -> None:
        api = registry_api(token, url)
        found = await api.server(server)
        revoked = await api.ask("DELETE", f"/mcp/{found['serverId']}/oauth/token")
        if as_json:
            show_fields(revoked, as_json=True)
            return
        name = found["serverName"]
        note = "" if revoked["revokedAtProvider"] else "; its provider did not confirm revocation"
        typer.echo(text(f"the access to {name} is removed{note}"))

    run(work)


@dataclass(frozen=True, slots=True)
class RegistryApi:
    """The API of a running registry, for one person."""

    address: str
    token: str

    async def ask(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        """Return an answer; end the command if it is an error."""
        from registry.cli.calling import ask_api  # noqa: PLC0415 - heavy imports

        status, body = await ask_api(self.address, self.token, method, path, content)
        if status >= 400:  # noqa: PLR2004 - an HTTP status
            message = text(body.get("message") or f"the registry answered {status}")
            fail(message, code=EXIT_CODES.get(status, FAILED))
        return body

    async def servers(self) -> list[dict[str, Any]]:
        """Return all servers that the person sees, with their connections."""
        body = await self.ask("GET", "/mcp/connection/status")
        found: dict[str, dict[str, Any]] = body["connectionStatus"]
        return [{"serverName": name, **state} for name, state in found.items()]

    async def server(self, reference: str) -> dict[str, Any]:
        """Return one of them; end the command if there is none."""
        rows = await self.servers()
        names = ("serverName", "serverId")
        row = next((row for row in rows if reference in [row[one] for one in names]), None)
        if row is None:
            fail(f"there is no server {reference}", code=NOT_FOUND)
        return row


def registry_api(token: str | None, url: str | None) -> RegistryApi:
    """Return the API of the running registry, for the person whose token it is."""
    settings = read_settings()
    return RegistryApi((url or settings.base_url).rstrip("/"), caller_token(settings, token))


def _show_address(address: str, *, opens: bool) -> None:
    # For people, so that what programs read is the result alone.
    sys.stderr.write(f"Open this address in your browser:\n\n  {address}\n\n")
    if opens and _has_browser():
        webbrowser.open(address)


def _has_browser() -> bool:
    """Whether a browser with windows can be opened; one in the terminal would take it over."""
    if not sys.stderr.isatty():
        return False
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in {"darwin", "win32"} or any(os.environ.get(one) for one in displays)  # noqa: TID251 - the desktop's, no settings


async def _wait(api: RegistryApi, flow_id: str, server_name: str) -> None:
    """Wait until a flow has ended; end the command if it failed."""
    clock = SystemClock()
    with _spinning("Waiting for the browser"):
        while True:
            flow = await api.ask("GET", f"/mcp/oauth/status/{flow_id}")
            if flow["completed"]:
                return
            if flow["failed"]:
                break
            await clock.sleep(POLL_SECONDS)
    reason = flow.get("error") or f"the authorization was {flow['status']}"
    fail(text(f"{server_name} is not connected: {reason}"))


@contextmanager
def _spinning(label: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - where it is drawn

    with Console(stderr=True).status(label):
        yield
