"""The ASGI application: dispatches requests to the control plane or to the gateway.

Gateway requests never enter FastAPI: its routing and middleware would cost more than the call.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import registry
from registry.access.budgets.routes import router as budgets_router
from registry.access.limits.routes import router as limits_router
from registry.access.policies.routes import router as policies_router
from registry.access.quarantine.routes import router as quarantine_router
from registry.access.routes import router as permissions_router
from registry.access.simulation.routes import router as simulation_router
from registry.access.toolsets.routes import router as toolsets_router
from registry.approvals.routes import router as approvals_router
from registry.audit.refusals import RefusalRecorder
from registry.audit.routes import router as audit_router
from registry.auth.errors import challenge
from registry.auth.routes import auth_router
from registry.catalog.routes import router as catalog_servers_router
from registry.catalog.subregistry.routes import router as subregistry_router
from registry.connections.routes import reconnection_router
from registry.connections.routes import router as connections_router
from registry.core.errors import RegistryError
from registry.core.json import dump_text
from registry.core.settings import Settings
from registry.gateway.openapi.calls import ToolEndpoints
from registry.gateway.openapi.routes import router as tool_endpoints_router
from registry.gateway.ports import Peers
from registry.oauth.routes import pages as oauth_pages
from registry.oauth.routes import router as oauth_router
from registry.search.routes import router as search_router
from registry.servers.apis.routes import router as apis_router
from registry.servers.routes import router as servers_router
from registry.servers.user_keys.routes import router as user_keys_router
from registry.servers.versions.routes import router as versions_router
from registry.sync.routes import router as sync_router
from registry.tokens.routes import exchanges as exchanges_router
from registry.tokens.routes import router as tokens_router
from registry.tools.governance.routes import CATALOG_PATH, catalog_router
from registry.tools.governance.routes import router as tools_router
from registry.usage.routes import router as usage_router
from registry.users.routes import groups_router, users_router
from registry.web.errors import install_error_handlers
from registry.web.health import health_router
from registry.web.hosts import HostGuard, answer_misdirected
from registry.web.middleware import RefuseWhileDraining, RequestRecorder
from registry.web.welcome import welcome_router
from registry.wiring.application import components
from registry.wiring.components import Components

GATEWAY_PATH = "/mcp"
GATEWAY_PREFIX = f"{GATEWAY_PATH}/"
HEALTH_PATH = "/health"
HEALTH_PREFIX = f"{HEALTH_PATH}/"


class Application:
    """Sends gateway paths to the data plane and everything else to the control plane.

    Args:
        control: The REST application.
        gateway: The data plane.
        hosts: Requests for other hosts are answered by *misdirected*, on both planes.
        misdirected: Refuses.
    """

    def __init__(
        self, control: ASGIApp, gateway: ASGIApp, *, hosts: HostGuard, misdirected: ASGIApp
    ) -> None:
        self._control = control
        self._gateway = gateway
        self._hosts = hosts
        self._misdirected = misdirected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self._control(scope, receive, send)
        elif not self._hosts.is_addressed(scope) and not _is_probe(path):
            await self._misdirected(scope, receive, send)
        elif path.startswith(GATEWAY_PREFIX) or path == GATEWAY_PATH:
            if path == CATALOG_PATH:
                await self._control(scope, receive, send)
                return
            await self._gateway(scope, receive, send)
        else:
            await self._control(scope, receive, send)


def _is_probe(path: str) -> bool:
    # Probes of load balancers and orchestrators use IP addresses; their answers are not secret.
    return path == HEALTH_PATH or path.startswith(HEALTH_PREFIX)


@asynccontextmanager
async def application(
    settings: Settings, peers: Peers | None = None
) -> AsyncIterator[tuple[Application, Components]]:
    """Build a running application; leaving the context shuts it down.

    Args:
        settings: Of this process.
        peers: The other workers; None when there are none.
    """
    async with components(settings, peers) as parts:
        app = Application(
            control_plane(parts),
            parts.gateway,
            hosts=HostGuard.from_settings(settings),
            misdirected=_recorded(parts, answer_misdirected),
        )
        yield app, parts


GOVERNANCE = (
    policies_router,
    limits_router,
    toolsets_router,
    budgets_router,
    quarantine_router,
    simulation_router,
    approvals_router,
)
"""Routers of what governs calls."""


def control_plane(parts: Components) -> ASGIApp:  # noqa: PLR0915 - one statement for each part
    """Return the REST application."""
    base_url = parts.settings.base_url
    app = FastAPI(
        title="MCP gateway registry",
        version=registry.__version__,
        description="Register MCP servers once, with credentials, and serve their tools.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would echo the Host header.
        redirect_slashes=False,
    )
    app.state.authenticator = parts.authenticator
    app.state.servers = parts.servers
    app.state.apis = parts.apis
    app.state.catalog = parts.catalog
    app.state.subregistry = parts.subregistry
    app.state.api_servers = parts.apis.servers
    app.state.api_versions = parts.api_versions
    app.state.connections = parts.connections
    app.state.reconnection = parts.reconnection
    app.state.permissions = parts.permissions
    app.state.user_keys = parts.user_keys
    app.state.versions = parts.versions
    app.state.audit = parts.audit_service
    app.state.usage = parts.usage
    app.state.tools = parts.tools
    app.state.policies = parts.policies
    app.state.limits = parts.limits
    app.state.toolsets = parts.toolsets
    app.state.toolset_permissions = parts.toolset_permissions
    app.state.budgets = parts.budgets
    app.state.approvals = parts.approvals
    app.state.approval_reader = parts.approval_reader
    app.state.quarantine = parts.quarantine
    app.state.simulation = parts.simulation
    app.state.quarantines = parts.quarantines
    app.state.search = parts.search
    app.state.embeddings = parts.vectors
    app.state.users = parts.users
    app.state.sync = parts.sync
    app.state.authorizations = parts.authorizations
    app.state.tokens = parts.tokens
    app.state.sessions = parts.sessions
    app.state.tool_endpoints = ToolEndpoints(parts.gateway)
    app.state.base_url = base_url

    def challenge_for(error: RegistryError, _request: Request) -> Mapping[str, str]:
        header = challenge(error)
        return {} if header is None else {"WWW-Authenticate": header}

    install_error_handlers(app, challenge_for, RefusalRecorder(parts.audit).note)
    app.include_router(welcome_router(registry.__version__, base_url))
    app.include_router(servers_router)
    app.include_router(apis_router)
    app.include_router(tool_endpoints_router)
    app.include_router(catalog_servers_router)
    app.include_router(subregistry_router)
    app.include_router(user_keys_router)
    app.include_router(connections_router)
    app.include_router(reconnection_router)
    app.include_router(oauth_router)
    app.include_router(oauth_pages)
    app.include_router(versions_router)
    app.include_router(tools_router)
    app.include_router(catalog_router)
    app.include_router(sync_router)
    app.include_router(permissions_router)
    for router in GOVERNANCE:
        app.include_router(router)
    app.include_router(search_router)
    app.include_router(users_router)
    app.include_router(groups_router)
    app.include_router(audit_router)
    app.include_router(usage_router)
    app.include_router(tokens_router)
    app.include_router(exchanges_router)
    app.include_router(auth_router(parts.keys, base_url))
    checks = {
        "mongodb": parts.database_is_up,
        "gateway": parts.snapshot_is_fresh,
        "accepting_requests": parts.is_accepting_requests,
    }
    facts = {"snapshot": parts.snapshot_facts, "embedding": parts.vectors.facts}
    app.include_router(health_router(checks, parts.metrics_page, facts))
    app.add_route("/api/v1/openapi.json", _description_of(app), include_in_schema=False)
    return _recorded(parts, RefuseWhileDraining(app, parts.drain))


def _description_of(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers with the API's description.

    It takes a second or more to make, in which calls through the gateway must not wait.
    """
    made = b""

    async def description(_request: Request) -> Response:
        nonlocal made
        made = made or await asyncio.to_thread(lambda: dump_text(app.openapi()))
        return Response(made, media_type="application/json")

    return description


def _recorded(parts: Components, app: ASGIApp) -> ASGIApp:
    return RequestRecorder(
        app,
        metrics=parts.metrics,
        max_body_bytes=parts.settings.gateway_max_body_bytes,
        body_seconds=parts.settings.request_body_timeout_seconds,
    )
