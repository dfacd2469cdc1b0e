"""What may stand in a log, and how it looks."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from registry.core.logs import MASK, configure_logging, for_one_reader, redact

SENTINEL = "S3NTINEL"
JWT = f"eyJhbGciOiJSUzI1NiJ9.eyJpZCI6IjEyMzQ1In0.{SENTINEL}"

SECRET_NAMES = (
    "authorization",
    "Authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "password",
    "client_secret",
    "JWT_SECRET",
    "token",
    "access_token",
    "api_key",
    "apiKey",
    "X-API-Key",
    "privateKey",
    "key",
    "creds_key",
    "credentials",
    "mongo_uri",
)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def redacted(**event: object) -> dict[str, object]:
    return dict(redact(None, "info", event))


@pytest.mark.requirement("R-306")
@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_value_under_a_secrets_name_is_masked_at_any_depth(name: str) -> None:
    event = redacted(**{name: SENTINEL, "outer": {"list": [{name: [SENTINEL, {"a": SENTINEL}]}]}})

    assert SENTINEL not in json.dumps(event)
    assert event[name] == MASK


@pytest.mark.requirement("R-306")
@pytest.mark.parametrize(
    ("text", "logged"),
    [
        (f"sent Bearer {SENTINEL} to it", "sent Bearer *** to it"),
        (f"BEARER  {SENTINEL}", "BEARER  ***"),
        (f'{{"Authorization": "Bearer {SENTINEL}"}}', '{"Authorization": "Bearer ***"}'),
        (f"refused {JWT}.", "refused ***."),
        (f"mongodb://u:{SENTINEL}@db:27017/x", "mongodb://***@db:27017/x"),
        (f"mongodb+srv://u:{SENTINEL}@db/x", "mongodb+srv://***@db/x"),
        (f"at https://u:{SENTINEL}@host/p", "at https://***@host/p"),
        (f"at https://{SENTINEL}@host/p", "at https://***@host/p"),
        (f"GET https://host/p?api_key={SENTINEL}&page=2", "GET https://host/p?api_key=***&page=2"),
        (f"https://host/?a=1&access_token={SENTINEL}", "https://host/?a=1&access_token=***"),
    ],
)
def test_a_secret_within_a_text_is_masked(text: str, logged: str) -> None:
    assert redacted(message=text) == {"message": logged}


def test_a_secret_in_an_exceptions_text_is_masked() -> None:
    error = ValueError(f"cannot use mongodb://u:{SENTINEL}@db/")

    assert redacted(error=error) == {"error": "cannot use mongodb://***@db/"}


@pytest.mark.parametrize(
    "event",
    [
        {"event": "server_registered", "server_name": "weather", "tools": 3, "took": 0.5},
        {"token_id": "abc", "keys": ["a"], "monkey": "b", "tokens": 4, "done": True, "by": None},
        {"url": "https://example.com/a?page=2"},
    ],
)
def test_facts_stay_as_they_are(event: dict[str, object]) -> None:
    assert redacted(**event) == event


text_around = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
nested = st.recursive(
    st.sampled_from([f"Bearer {SENTINEL}", JWT, f"https://a:{SENTINEL}@b/", 1, None, True]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.requirement("R-306")
@given(value=nested, name=st.text(max_size=8))
def test_no_shape_of_an_event_lets_a_secret_through(value: object, name: str) -> None:
    assert SENTINEL not in str(redacted(**{f"x{name}": value}))


@pytest.mark.requirement("R-306")
@given(before=text_around, after=text_around)
def test_no_text_around_a_url_lets_its_password_through(before: str, after: str) -> None:
    text = f"{before} mongodb://user:{SENTINEL}@host/ {after}"

    assert SENTINEL not in str(redacted(message=text))


@pytest.mark.requirement("R-331")
def test_events_are_lines_of_json(
    capsys: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("info", "json")

    structlog.get_logger().info("server_registered", server_id="1", authorization=SENTINEL)
    structlog.get_logger().debug("not_wanted")
    logging.getLogger("library").warning("from %s", f"Bearer {SENTINEL}")

    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "server_registered",
        "level": "info",
        "server_id": "1",
        "authorization": MASK,
    }
    assert second["event"] == f"from Bearer {MASK}"


@pytest.mark.requirement("R-306")
def test_a_logged_traceback_holds_no_secret(
    capsys: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("info", "json")

    try:
        int(f"Bearer {SENTINEL}")
    except ValueError:
        structlog.get_logger().exception("request_failed")
        logging.getLogger("library").exception("failed")

    printed = capsys.readouterr().err
    assert printed.count("Traceback") == 2
    assert SENTINEL not in printed


def test_people_may_read_text_instead(
    capsys: pytest.CaptureFixture[str], restored_logging: None
) -> None:
    configure_logging("warning", "console")

    structlog.get_logger().warning("index_conflict", index="a_1")

    assert "index_conflict" in capsys.readouterr().err
    assert not sys.stderr.isatty()


def test_at_a_terminal_a_call_is_told_in_short_and_only_troubles_besides() -> None:
    call = {
        "event": "gateway_call",
        "server": "demo",
        "tool": "add",
        "outcome": "ok",
        "duration_ms": 1.5,
        "response_bytes": 70,
    }

    assert for_one_reader(None, "info", call) == {
        "event": "gateway_call",
        "server": "demo",
        "tool": "add",
        "outcome": "ok",
        "duration_ms": 1.5,
    }
    assert for_one_reader(None, "warning", {"event": "x"}) == {"event": "x"}
    with pytest.raises(structlog.DropEvent):
        for_one_reader(None, "info", {"event": "audit_sealed"})
