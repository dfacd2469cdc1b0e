"""The provider over HTTP: metadata, consent, tokens, registration, revocation, and switches."""

import asyncio
import html
import secrets
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.fakes.oauth.provider import OAuth2Error, Provider

HUGE_BYTES = 100 * 1024 * 1024
NO_STORE = {"Cache-Control": "no-store"}
SLOW_SECONDS = 30


def authorization_server(provider: Provider) -> Starlette:
    """Return the ASGI application of *provider*, whose issuer is its URL."""
    prefix = urlsplit(provider.issuer).path.rstrip("/")
    handlers = _Handlers(provider)
    return Starlette(
        routes=[
            Route(f"/.well-known/oauth-authorization-server{prefix}", handlers.oauth_metadata),
            Route(f"/.well-known/openid-configuration{prefix}", handlers.openid_metadata),
            Route(f"{prefix}/.well-known/openid-configuration", handlers.openid_metadata),
            Route(f"{prefix}/authorize", handlers.authorize, methods=["GET", "POST"]),
            Route(f"{prefix}/token", handlers.token, methods=["POST"]),
            Route(f"{prefix}/register", handlers.register, methods=["POST"]),
            Route(f"{prefix}/register/{{client_id}}", handlers.unregister, methods=["DELETE"]),
            Route(f"{prefix}/revoke", handlers.revoke, methods=["POST"]),
            Route("/switches", handlers.switches, methods=["POST"]),
            Route("/counts", handlers.counts),
            Route("/forget-clients", handlers.forget_clients, methods=["POST"]),
            Route("/expire", handlers.expire, methods=["POST"]),
            Route("/revoke-all", handlers.revoke_all, methods=["POST"]),
        ]
    )


class _Handlers:
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def oauth_metadata(self, request: Request) -> Response:
        """Answer RFC 8414 metadata, unless switched off."""
        match self._provider.switches.metadata:
            case "openid" | "none":
                return Response(status_code=404)
            case "huge":
                return Response(b'{"issuer": "' + b"x" * HUGE_BYTES, media_type="application/json")
            case "redirect":
                return RedirectResponse("http://169.254.169.254/latest/meta-data")
            case "slow":
                await asyncio.sleep(SLOW_SECONDS)
            case _:
                pass
        return JSONResponse(self._provider.metadata())

    async def openid_metadata(self, request: Request) -> Response:
        """Answer OpenID Connect Discovery, where only that is switched on."""
        if self._provider.switches.metadata != "openid":
            return Response(status_code=404)
        return JSONResponse({**self._provider.metadata(), "subject_types_supported": ["public"]})

    async def authorize(self, request: Request) -> Response:
        """Ask for consent, or answer with what the person decided."""
        provider = self._provider
        said = dict(request.query_params)
        passed = ("GET", str(request.url), said, request.headers)
        if said.get("code_challenge_method") != "S256" or not said.get("code_challenge"):
            return JSONResponse({"error": "invalid_request", "why": "PKCE is required"}, 400)
        try:
            grant = provider.server.get_consent_grant(passed, end_user=provider.switches.login)
        except OAuth2Error as error:
            return JSONResponse(dict(error.get_body()), 400)
        user: str | None = provider.switches.login
        if provider.switches.consent == "page":
            if request.method == "GET":
                return HTMLResponse(_consent_page(str(request.url), said))
            form = await request.form()
            user = str(form.get("user") or "ada") if form.get("decision") == "allow" else None
        provider.counts["authorize"] += 1
        if user is None:
            return self._denied(said)
        status, _, headers = provider.server.create_authorization_response(
            passed, grant_user=user, grant=grant
        )
        location = dict(headers).get("Location", "")
        assert status == 302, headers
        return RedirectResponse(self._with_issuer(location), 302)

    def _denied(self, said: dict[str, str]) -> Response:
        answer = {"error": "access_denied", "state": said.get("state", "")}
        return RedirectResponse(
            self._with_issuer(f"{said['redirect_uri']}?{urlencode(answer)}"), 302
        )

    def _with_issuer(self, location: str) -> str:
        match self._provider.switches.iss:
            case "missing":
                return location
            case "wrong":
                issuer = "http://127.0.0.1:1/another"
            case _:
                issuer = self._provider.issuer
        return f"{location}&{urlencode({'iss': issuer})}"

    async def token(self, request: Request) -> Response:
        """Issue tokens."""
        provider, switches = self._provider, self._provider.switches
        provider.counts["token"] += 1
        form = {name: str(value) for name, value in (await request.form()).items()}
        status, body, _ = provider.server.create_token_response(
            ("POST", str(request.url), form, request.headers)
        )
        await provider.token_answers.wait()
        if switches.delay:
            await asyncio.sleep(switches.delay)
        if switches.status:
            return Response("It broke.", switches.status)
        return _rendered(status, dict(body), switches.answer, switches.expires_in)

    async def register(self, request: Request) -> Response:
        """Register a client (RFC 7591)."""
        passed = ("POST", str(request.url), await request.json(), request.headers)
        status, body, _ = self._provider.server.create_endpoint_response(
            "client_registration", passed
        )
        if "client_id" in body:
            client_id, token = body["client_id"], f"rat_{secrets.token_urlsafe(24)}"
            self._provider.registrations[client_id] = token
            url = f"{self._provider.issuer}/register/{client_id}"
            body = {
                **body,
                "registration_client_uri": url,
                "registration_access_token": token,
            }
        return JSONResponse(body, status, headers=NO_STORE)

    async def unregister(self, request: Request) -> Response:
        """Delete a client (RFC 7592)."""
        provider, client_id = self._provider, request.path_params["client_id"]
        token = provider.registrations.get(client_id)
        if token is None or request.headers.get("authorization") != f"Bearer {token}":
            return Response(status_code=401)
        provider.counts["unregister"] += 1
        del provider.registrations[client_id], provider.clients[client_id]
        # As section 2.3 recommends.
        for issued in provider.tokens:
            issued.is_revoked = issued.is_revoked or issued.client_id == client_id
        return Response(status_code=204, headers=NO_STORE)

    async def revoke(self, request: Request) -> Response:
        """Revoke a token (RFC 7009)."""
        form = {name: str(value) for name, value in (await request.form()).items()}
        status, body, _ = self._provider.server.create_endpoint_response(
            "revocation", ("POST", str(request.url), form, request.headers)
        )
        return JSONResponse(body, status)

    async def switches(self, request: Request) -> Response:
        """Set switches by name."""
        for name, value in (await request.json()).items():
            setattr(self._provider.switches, name, value)
        return JSONResponse(asdict(self._provider.switches))

    async def counts(self, request: Request) -> Response:
        """Return what happened so far."""
        return JSONResponse(dict(self._provider.counts))

    async def forget_clients(self, request: Request) -> Response:
        """Lose all registrations."""
        self._provider.forget_clients()
        return Response(status_code=204)

    async def expire(self, request: Request) -> Response:
        """Let all access tokens expire now."""
        self._provider.expire()
        return Response(status_code=204)

    async def revoke_all(self, request: Request) -> Response:
        """Revoke all tokens, as a person can do at the provider."""
        for token in self._provider.tokens:
            token.is_revoked = True
        return Response(status_code=204)


def _rendered(status: int, body: dict[str, Any], form: str, expires_in: str) -> Response:
    if "expires_in" in body:
        if expires_in == "text":
            body["expires_in"] = str(body["expires_in"])
        elif expires_in == "absent":
            del body["expires_in"]
    match form:
        case "form":
            kind = "application/x-www-form-urlencoded"
            return Response(urlencode(body), status, headers=NO_STORE, media_type=kind)
        case "html":
            return HTMLResponse(orjson.dumps(body), status, headers=NO_STORE)
        case "github":
            return JSONResponse(body, 200, headers=NO_STORE)
        case "slack" if "access_token" in body:
            nested = {"ok": True, "authed_user": {"id": "U1", **body}}
            return JSONResponse(nested, status, headers=NO_STORE)
        case "slack":
            return JSONResponse({"ok": False, "error": body.get("error")}, 200)
        case _:
            return JSONResponse(body, status, headers=NO_STORE)


def _consent_page(url: str, said: dict[str, str]) -> str:
    return f"""<!doctype html><html><head><title>Sign in</title></head><body>
<h1>Allow {html.escape(said.get("client_id", ""))}?</h1>
<form method="post" action="{html.escape(url)}">
<input name="user" value="ada">
<button name="decision" value="allow" id="allow">Allow</button>
<button name="decision" value="deny" id="deny">Deny</button>
</form></body></html>"""
