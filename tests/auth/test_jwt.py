"""Which tokens pass, and that nothing else does."""

import base64
import hashlib
import hmac
import json
import time
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jose import jwt

from registry.auth.errors import UnauthorizedError
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, default_scopes
from registry.auth.jwt import (
    RefreshClaims,
    TokenIssuer,
    TokenVerifier,
    VerifiedToken,
    refresh_audience,
)
from registry.auth.keys import SigningKeys
from registry.core.clock import SystemClock

ALICE = "a" * 24
ISSUER = "mcp-gateway-registry"
AUDIENCE = "mcp-gateway"
SHARED_SECRET = "a secret that jarvis-api shares"
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of a good token; a None takes one away."""
    now = int(time.time())
    whole = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": ALICE,
        "user_id": ALICE,
        "username": "alice",
        "role": "user",
        "scope": "read:servers invoke:tools",
        "jti": "1",
        "iat": now,
        "exp": now + 60,
        **changed,
    }
    return {name: value for name, value in whole.items() if value is not None}


def own(keys: SigningKeys, header: dict[str, Any] | None = None, **changed: Any) -> str:
    headers = {"kid": keys.kid, **(header or {})}
    return str(jwt.encode(claims(**changed), keys.private_pem, algorithm="RS256", headers=headers))


def shared(secret: str = SHARED_SECRET, **changed: Any) -> str:
    now = int(time.time())
    whole = {"id": ALICE, "username": "alice", "email": "a@b.c", "iat": now, "exp": now + 60}
    merged = {name: value for name, value in {**whole, **changed}.items() if value is not None}
    return str(jwt.encode(merged, secret, algorithm="HS256"))


def encoded(part: dict[str, Any] | bytes) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], body: dict[str, Any], key: bytes) -> str:
    """Return a token signed with HMAC by any key, which libraries refuse to make."""
    signed = f"{encoded(header)}.{encoded(body)}"
    signature = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encoded(signature)}"


def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        verifier.verify(token)
    return caught.value.message


@pytest.mark.requirement("R-240")
@pytest.mark.parametrize("role", Role)
def test_an_issued_token_is_verified(
    issuer: TokenIssuer, verifier: TokenVerifier, clock: SystemClock, role: Role
) -> None:
    scopes = frozenset({Scope.READ_SERVERS, Scope.INVOKE_TOOLS})
    token = issuer.issue(user_id=ALICE, username="alice", role=role, scopes=scopes, lifetime=HOUR)

    verified = verifier.verify(token)

    assert verified.token_id is not None
    assert verified.expires_at == pytest.approx(clock.now().timestamp() + 3600, abs=5)
    assert verified == VerifiedToken(
        user_id=ALICE,
        username="alice",
        role=role,
        scopes=scopes,
        token_id=verified.token_id,
        expires_at=verified.expires_at,
        issued_at=verified.issued_at,
    )


def test_every_issued_token_has_an_id_of_its_own(
    issuer: TokenIssuer, verifier: TokenVerifier
) -> None:
    tokens = [
        issuer.issue(user_id=ALICE, username="", role=Role.USER, scopes=frozenset(), lifetime=HOUR)
        for _ in range(2)
    ]

    assert len({verifier.verify(token).token_id for token in tokens}) == 2


def test_a_token_without_scopes_allows_nothing(verifier: TokenVerifier, keys: SigningKeys) -> None:
    assert verifier.verify(own(keys, scope="")).scopes == frozenset()


def test_scopes_unknown_here_are_passed_over(verifier: TokenVerifier, keys: SigningKeys) -> None:
    verified = verifier.verify(own(keys, scope="read:servers read:minds"))

    assert verified.scopes == frozenset({Scope.READ_SERVERS})


@pytest.mark.requirement("R-241")
@pytest.mark.parametrize(
    ("role", "meant"),
    [("admin", Role.ADMIN), ("ADMIN", Role.ADMIN), ("user", Role.USER), ("superadmin", Role.USER)],
)
def test_a_role_is_read_without_regard_to_case(
    verifier: TokenVerifier, keys: SigningKeys, role: str, meant: Role
) -> None:
    assert verifier.verify(own(keys, role=role)).role is meant


@pytest.mark.requirement("R-240")
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": "somebody"}, "cannot be verified"),
        ({"iss": None}, "cannot be verified"),
        ({"aud": "something"}, "cannot be verified"),
        ({"aud": None}, "cannot be verified"),
        ({"aud": ["a", "b"]}, "cannot be verified"),
        ({"aud": {"mcp-gateway": 1}}, "cannot be verified"),
        ({"exp": None}, "cannot be verified"),
        ({"iat": None}, "cannot be verified"),
        ({"exp": 1}, "has expired"),
        ({"exp": int(time.time()) - 60}, "has expired"),
        ({"exp": "never"}, "cannot be verified"),
        ({"nbf": int(time.time()) + 3600}, "cannot be verified"),
        ({"user_id": None}, "names no user"),
        ({"user_id": 7}, "names no user"),
        ({"user_id": "alice"}, "names no user"),
        ({"user_id": "g" * 24}, "names no user"),
        ({"user_id": {"$ne": None}}, "names no user"),
        ({"role": None}, "lacks a role or a scope"),
        ({"role": ["admin"]}, "lacks a role or a scope"),
        ({"scope": None}, "lacks a role or a scope"),
        ({"scope": ["read:servers"]}, "lacks a role or a scope"),
    ],
)
def test_a_well_signed_token_with_wrong_claims_is_refused(
    verifier: TokenVerifier, keys: SigningKeys, changed: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(verifier, own(keys, **changed))


def test_clocks_may_differ_by_the_leeway(verifier: TokenVerifier, keys: SigningKeys) -> None:
    assert verifier.verify(own(keys, exp=int(time.time()) - 5)).user_id == ALICE


@pytest.mark.parametrize("exp", [float("inf"), float("nan"), 1e300, -1, 10**30, 10**400])
def test_an_absurd_expiry_is_refused(
    verifier: TokenVerifier, keys: SigningKeys, exp: float
) -> None:
    assert "token" in refusal(verifier, own(keys, exp=exp))


@pytest.mark.parametrize("kid", ["unknown", "", 7, None, ["a"], {"$gt": ""}])
def test_a_token_of_an_unknown_key_is_refused(
    verifier: TokenVerifier, keys: SigningKeys, kid: object
) -> None:
    assert "unknown key" in refusal(verifier, own(keys, {"kid": kid}))


def test_a_token_of_another_key_is_refused_under_our_keys_name(
    verifier: TokenVerifier, keys: SigningKeys
) -> None:
    stranger = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    token = jwt.encode(claims(), stranger, algorithm="RS256", headers={"kid": keys.kid})

    assert "cannot be verified" in refusal(verifier, token)


@pytest.mark.requirement("R-240")
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "RS512", "ES256", "HS512", 1])
def test_other_algorithms_are_refused(
    verifier: TokenVerifier, keys: SigningKeys, algorithm: object
) -> None:
    header = {"alg": algorithm, "typ": "JWT", "kid": keys.kid}

    assert refusal(verifier, f"{encoded(header)}.{encoded(claims())}.")
    assert refusal(verifier, by_hand(header, claims(), keys.public_pem.encode()))


@pytest.mark.requirement("R-240")
def test_the_public_key_is_no_shared_secret(verifier: TokenVerifier, keys: SigningKeys) -> None:
    header = {"alg": "HS256", "kid": keys.kid}
    token = by_hand(header, {**claims(), "id": ALICE}, keys.public_pem.encode())

    assert "cannot be verified" in refusal(verifier, token)


def test_our_tokens_with_the_shared_secrets_signature_are_refused(
    verifier: TokenVerifier, keys: SigningKeys
) -> None:
    header = {"alg": "RS256", "kid": keys.kid}

    assert refusal(verifier, by_hand(header, claims(), SHARED_SECRET.encode()))


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
    ],
)
def test_extensions_that_must_be_understood_are_refused(
    verifier: TokenVerifier, keys: SigningKeys, header: dict[str, Any]
) -> None:
    assert "extension" in refusal(verifier, own(keys, header))


def test_a_key_brought_along_in_the_header_is_not_believed(
    verifier: TokenVerifier, keys: SigningKeys
) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    pem = stranger.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    brought = {"jwk": keys.jwk, "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/"}
    headers = {"kid": keys.kid, **brought}

    assert refusal(verifier, jwt.encode(claims(), pem, algorithm="RS256", headers=headers))
    assert verifier.verify(own(keys, brought)).user_id == ALICE


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_changed_token_is_refused(verifier: TokenVerifier, keys: SigningKeys, part: int) -> None:
    parts = own(keys).split(".")
    changed = "B" if parts[part][10] == "A" else "A"
    parts[part] = parts[part][:10] + changed + parts[part][11:]

    assert refusal(verifier, ".".join(parts))


def test_a_signature_cannot_be_moved_to_other_claims(
    verifier: TokenVerifier, keys: SigningKeys
) -> None:
    head, _, signature = own(keys).split(".")

    assert refusal(verifier, f"{head}.{encoded(claims(role='admin'))}.{signature}")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a" * 9000,
        "é.é.é",
        "\ud800",
        "eyJhbGciOiJSUzI1NiJ9",
        f"{encoded(b'[]')}.{encoded(b'{}')}.x",
        f"{encoded(b'7')}.{encoded(b'7')}.x",
        f"{encoded(b'null')}.{encoded(b'null')}.x",
        f"{encoded(b'{' * 4000)}.x.x",
        f"{encoded(b'[' * 5000)}.x.x",
    ],
)
def test_garbage_is_refused(verifier: TokenVerifier, token: str) -> None:
    assert refusal(verifier, token)


@pytest.mark.parametrize(
    ("token", "fault"),
    [("TOKEN", "is not a JWT"), (f"{encoded({'alg': 'HS256'})}.e30.eHg", "cannot be verified")],
)
def test_a_wrong_token_is_told_what_to_send(
    verifier: TokenVerifier, token: str, fault: str
) -> None:
    told = refusal(verifier, token)

    assert fault in told
    assert "Send the whole token, as it was issued" in told


def test_a_body_that_is_no_object_is_refused(verifier: TokenVerifier) -> None:
    header = encoded({"alg": "HS256"})
    signed = f"{header}.{encoded(b'[1]')}"
    signature = hmac.new(SHARED_SECRET.encode(), signed.encode(), hashlib.sha256).digest()

    assert refusal(verifier, f"{signed}.{encoded(signature)}")


@pytest.mark.requirement("R-306")
def test_a_refusal_does_not_quote_the_token(verifier: TokenVerifier, keys: SigningKeys) -> None:
    token = own(keys, iss="s3ntinel")

    message = refusal(verifier, token)

    assert "s3ntinel" not in message
    assert token[:20] not in message


@pytest.mark.requirement("R-240")
def test_jarvis_tokens_name_a_user_and_no_rights(verifier: TokenVerifier) -> None:
    verified = verifier.verify(shared())

    assert verified == VerifiedToken(
        ALICE, "alice", None, None, None, verified.expires_at, verified.issued_at
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": None}, "cannot be verified"),
        ({"exp": 1}, "has expired"),
        ({"id": None}, "names no user"),
        ({"id": "g" * 24}, "names no user"),
        ({"sessionId": "b" * 24}, "is not an access token"),
        ({"sessionId": ""}, "is not an access token"),
        ({"iss": ISSUER}, "is not an access token"),
        ({"secret": "another secret"}, "cannot be verified"),
    ],
)
def test_other_tokens_of_jarvis_are_refused(
    verifier: TokenVerifier, changed: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(verifier, shared(**changed))


def test_a_role_in_a_jarvis_token_is_not_believed(verifier: TokenVerifier) -> None:
    verified = verifier.verify(shared(role="admin", scope="write:servers"))

    assert (verified.role, verified.scopes) == (None, None)


@pytest.mark.parametrize("secret", [None, ""])
def test_jarvis_tokens_are_refused_without_its_secret(
    keys: SigningKeys, secret: str | None
) -> None:
    verifier = TokenVerifier(
        keys, issuer=ISSUER, audience=AUDIENCE, shared_secret=secret, leeway_seconds=10
    )

    assert "algorithm is not accepted" in refusal(verifier, shared(secret or SHARED_SECRET))


@pytest.mark.parametrize(("role", "scopes"), [(Role.ADMIN, ALL_SCOPES), (Role.USER, USER_SCOPES)])
def test_a_role_has_a_default_set_of_scopes(role: Role, scopes: frozenset[Scope]) -> None:
    assert default_scopes(role) == scopes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
same_fixtures = examples(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=50,
)


@pytest.mark.requirement("R-240")
@same_fixtures
@given(token=st.text(max_size=200) | st.lists(st.text(max_size=30), max_size=4).map(".".join))
def test_no_text_is_a_token(verifier: TokenVerifier, token: str) -> None:
    assert refusal(verifier, token)


@pytest.mark.requirement("R-240")
@same_fixtures
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "crit", "jwk"]) | st.text(max_size=4), json_values
    ),
    body=json_values,
    signature=st.binary(max_size=40),
    algorithm=st.sampled_from(["RS256", "HS256", "none"]),
)
def test_no_unsigned_structure_is_a_token(
    verifier: TokenVerifier,
    keys: SigningKeys,
    header: dict[str, Any],
    body: Any,
    signature: bytes,
    algorithm: str,
) -> None:
    whole = {**header, "alg": algorithm, "kid": keys.kid}
    parts = (encoded(whole), encoded(json.dumps(body).encode()), encoded(signature))

    assert refusal(verifier, ".".join(parts))


@same_fixtures
@given(
    name=st.sampled_from(["user_id", "role", "scope", "exp", "aud", "iss", "jti"]),
    value=json_values,
)
def test_wrong_claims_of_any_type_never_break_the_verifier(
    verifier: TokenVerifier, keys: SigningKeys, name: str, value: Any
) -> None:
    try:
        verified = verifier.verify(own(keys, **{name: value}))
    except UnauthorizedError:
        return
    assert verified.user_id == ALICE


@pytest.mark.requirement("R-265")
def test_a_refresh_token_is_no_access_token_and_the_other_way_round(
    issuer: TokenIssuer, verifier: TokenVerifier
) -> None:
    access = issuer.issue(
        user_id=ALICE, username="", role=Role.ADMIN, scopes=ALL_SCOPES, lifetime=HOUR
    )
    refresh = issuer.issue_refresh(user_id=ALICE, session_id="s", token_id="t", lifetime=HOUR)

    assert verifier.verify_refresh(refresh) == RefreshClaims(ALICE, "s", "t")
    assert "cannot be verified" in refusal(verifier, refresh)
    with pytest.raises(UnauthorizedError):
        verifier.verify_refresh(access)


@pytest.mark.parametrize(
    "changed",
    [
        {"token_use": None},
        {"token_use": "access"},
        {"sid": None},
        {"sid": 1},
        {"jti": None},
        {"sub": "nobody"},
        {"aud": AUDIENCE},
        {"iss": "other"},
        {"exp": 1},
    ],
    ids=str,
)
def test_a_refresh_token_says_all_that_it_must(
    keys: SigningKeys, verifier: TokenVerifier, changed: dict[str, Any]
) -> None:
    good = {"aud": refresh_audience(AUDIENCE), "token_use": "refresh", "sid": "s"}

    verifier.verify_refresh(own(keys, None, **good))
    with pytest.raises(UnauthorizedError):
        verifier.verify_refresh(own(keys, None, **{**good, **changed}))


def test_a_token_for_another_use_is_refused_whatever_its_audience(
    keys: SigningKeys, verifier: TokenVerifier
) -> None:
    both = [AUDIENCE, refresh_audience(AUDIENCE)]

    assert "not an access token" in refusal(verifier, own(keys, aud=both, token_use="refresh"))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a" * 9000])
def test_what_is_no_token_is_no_refresh_token(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(UnauthorizedError):
        verifier.verify_refresh(token)


def test_a_refresh_token_under_the_shared_secret_is_refused(verifier: TokenVerifier) -> None:
    claims = {"aud": refresh_audience(AUDIENCE), "token_use": "refresh", "sid": "s", "sub": ALICE}

    with pytest.raises(UnauthorizedError):
        verifier.verify_refresh(shared(**claims))


@pytest.mark.parametrize("audience", [AUDIENCE, refresh_audience(AUDIENCE)])
def test_what_is_signed_for_others_is_no_token_here(issuer: TokenIssuer, audience: str) -> None:
    """Authorization servers of others get assertions with an audience of their choice."""
    with pytest.raises(ValueError, match="audience"):
        issuer.sign({"iss": ISSUER, "sub": ALICE, "aud": audience})
