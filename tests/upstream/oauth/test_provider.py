"""The OAuth client against a strict provider."""

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from registry.core.clock import SystemClock
from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.authorization import (
    authorization_url,
    check_response_issuer,
    new_verifier,
)
from registry.upstream.oauth.errors import InvalidClientError, InvalidGrantError
from registry.upstream.oauth.http import OAuthHttp, oauth_http
from registry.upstream.oauth.metadata import OAuthDiscovery
from registry.upstream.oauth.registration import ClientRegistrar
from registry.upstream.oauth.token_endpoint import TokenEndpoint
from registry.upstream.oauth.values import TokenRequest, Tokens
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth

REDIRECT_URI = "http://127.0.0.1:9/callback"
GUARD = UrlGuard(["127.0.0.0/8"])


@pytest.fixture
async def running() -> AsyncIterator[RunningOAuth]:
    async with serving_oauth() as oauth:
        yield oauth


@pytest.fixture
async def http() -> AsyncIterator[OAuthHttp]:
    async with oauth_http(GUARD, connect_timeout_seconds=5, total_timeout_seconds=10) as made:
        yield made


def endpoint(http: OAuthHttp) -> TokenEndpoint:
    return TokenEndpoint(http, SystemClock(), None)


async def authorised(running: RunningOAuth, http: OAuthHttp) -> tuple[TokenRequest, Tokens]:
    found = await OAuthDiscovery(http, GUARD).of_server(running.url, {}, None)
    scopes = found.resource.scopes
    client = await ClientRegistrar(http, keys=None).client(
        found.server, None, redirect_uri=REDIRECT_URI, metadata_url=None, scopes=scopes
    )
    verifier, resource = new_verifier(), found.resource.resource
    url = authorization_url(
        found.server,
        client,
        redirect_uri=REDIRECT_URI,
        state="opaque",
        verifier=verifier,
        scopes=scopes,
        resource=resource,
    )
    async with httpx.AsyncClient(timeout=30) as browser:
        answer = await browser.get(url)
    response = parse_qs(urlsplit(answer.headers["location"]).query)
    check_response_issuer(found.server, response["iss"][0])
    request = TokenRequest(found.server, client, resource, scopes)
    tokens = await endpoint(http).exchange_code(
        request, code=response["code"][0], verifier=verifier, redirect_uri=REDIRECT_URI
    )
    return request, tokens


async def test_a_code_is_exchanged_for_tokens_of_the_resource(
    running: RunningOAuth, http: OAuthHttp
) -> None:
    _, tokens = await authorised(running, http)

    issued = running.provider.find(tokens.access_token)
    assert issued is not None
    assert (issued.user, issued.resource, issued.scope) == ("ada", running.url, "read")
    assert tokens.expires_in == 3600
    assert tokens.scopes == ("read",)


@pytest.mark.parametrize("answer", ["json", "form", "html", "github", "slack"])
async def test_tokens_are_renewed_whatever_the_form_of_the_answer(
    running: RunningOAuth, http: OAuthHttp, answer: str
) -> None:
    request, tokens = await authorised(running, http)
    running.provider.switches.answer = answer
    running.provider.switches.expires_in = "text"

    renewed = await endpoint(http).refresh(request, tokens.refresh_token or "")

    assert running.provider.find(renewed.access_token) is not None
    assert renewed.refresh_token is not None
    assert renewed.refresh_token != tokens.refresh_token
    assert renewed.expires_in == 3600


@pytest.mark.parametrize("answer", ["json", "github", "slack"])
async def test_a_used_refresh_token_is_an_invalid_grant(
    running: RunningOAuth, http: OAuthHttp, answer: str
) -> None:
    request, tokens = await authorised(running, http)
    await endpoint(http).refresh(request, tokens.refresh_token or "")
    running.provider.switches.answer = answer

    with pytest.raises(InvalidGrantError) as caught:
        await endpoint(http).refresh(request, tokens.refresh_token or "")

    assert tokens.refresh_token is not None
    assert tokens.refresh_token not in caught.value.message


async def test_a_lost_registration_is_an_invalid_client(
    running: RunningOAuth, http: OAuthHttp
) -> None:
    request, tokens = await authorised(running, http)
    running.provider.forget_clients()

    with pytest.raises(InvalidClientError):
        await endpoint(http).refresh(request, tokens.refresh_token or "")


async def test_revoked_tokens_are_not_usable(running: RunningOAuth, http: OAuthHttp) -> None:
    request, tokens = await authorised(running, http)

    done = await endpoint(http).revoke(
        request.server, request.client, tokens.refresh_token or "", "refresh_token"
    )

    assert done
    assert running.provider.find(tokens.access_token) is None
