"""Initial data of a local registry: an administrator, a token, the demo server."""

from datetime import timedelta

import structlog

from registry.auth.errors import UnauthorizedError
from registry.auth.identity import ALL_SCOPES, OPERATOR, Role, UserContext
from registry.core.errors import RegistryError
from registry.processes.local.home import LocalHome
from registry.servers.errors import ServerExistsError
from registry.servers.schemas import ServerCreate, ServerUpdate
from registry.tokens.values import TokenOrder
from registry.users.repository import UserRepository
from registry.wiring.components import Components

log = structlog.get_logger()

DEMO_NAME = "demo"
TOKEN_LIFETIME = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
"""A token that expires sooner is replaced at start."""


async def bootstrap(parts: Components, home: LocalHome, demo_url: str) -> str:
    """Create missing initial data and return the administrator's token."""
    user_id = await UserRepository(parts.database).ensure_local_administrator(parts.clock.now())
    admin = UserContext(user_id, "admin", Role.ADMIN, ALL_SCOPES)
    token = home.read_admin_token()
    if token is None or not await _is_good(parts, token, user_id):
        order = TokenOrder(
            user_id=user_id,
            username=admin.username,
            role=admin.role,
            scopes=admin.scopes,
            lifetime=TOKEN_LIFETIME,
            description="administrator of local mode",
        )
        token = (await parts.sessions.issue(order, OPERATOR, is_own=True)).access_token
        home.write_admin_token(token)
    try:
        await _ensure_demo(parts, admin, demo_url)
    except RegistryError as exc:
        # The demo server is optional: everything else works without it.
        log.warning("demo_server_registration_failed", error=exc.message)
    return token


async def _is_good(parts: Components, token: str, user_id: str) -> bool:
    try:
        verified = parts.verifier.verify(token)
        # Also checks whether it was revoked.
        await parts.authenticator.authenticate(f"Bearer {token}")
    except UnauthorizedError:
        return False
    renew_at = (parts.clock.now() + RENEW_BEFORE).timestamp()
    return verified.user_id == user_id and verified.expires_at > renew_at


async def _ensure_demo(parts: Components, admin: UserContext, url: str) -> None:
    existing = await parts.servers.find_by_name(DEMO_NAME, admin)
    if existing is None:
        body = ServerCreate.model_validate(
            {
                "serverName": DEMO_NAME,
                "title": "Demo",
                "description": "Small tools to try the gateway with.",
                "url": url,
                "scope": "shared_app",
                "tags": ["demo"],
            }
        )
        try:
            await parts.servers.register(body, admin, strict=False)
        except ServerExistsError:
            return
    elif existing.config.get("url") != url:
        await parts.servers.update(existing.id, ServerUpdate(url=url), admin)
