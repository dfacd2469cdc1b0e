"""Signatures of webhook calls."""

from datetime import UTC, datetime, timedelta

import pytest

from registry.core.webhook_signatures import signature
from registry.sync.errors import WebhookRefusedError
from registry.sync.webhooks import delivery, require_genuine

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
AT = datetime.fromtimestamp(1614265330, UTC)
HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def check(headers: dict[str, str], body: bytes = BODY, now: datetime = AT) -> None:
    require_genuine(delivery(headers, body), SECRET, now)


def test_the_example_of_the_specification_is_genuine() -> None:
    check(HEADERS)


def test_one_of_several_signatures_is_enough() -> None:
    other = signature("x", "1", b"", "whsec_AAAA")

    check({**HEADERS, "webhook-signature": f"{other} v2,what {HEADERS['webhook-signature']}"})


@pytest.mark.parametrize("seconds", [-299, 299])
def test_clocks_may_differ_a_little(seconds: int) -> None:
    check(HEADERS, now=AT + timedelta(seconds=seconds))


@pytest.mark.requirement("R-155")
@pytest.mark.parametrize(
    ("changed", "body", "minutes"),
    [
        ({"webhook-signature": "v1,AAAA"}, BODY, 0),
        ({"webhook-signature": "v1," + "é" * 44}, BODY, 0),
        ({"webhook-signature": ""}, BODY, 0),
        ({"webhook-id": "msg_other"}, BODY, 0),
        ({"webhook-id": ""}, BODY, 0),
        ({"webhook-id": "a/b"}, BODY, 0),
        ({"webhook-id": "msg.1"}, BODY, 0),
        ({"webhook-id": "x" * 129}, BODY, 0),
        ({"webhook-timestamp": "1614265331"}, BODY, 0),
        ({"webhook-timestamp": "now"}, BODY, 0),
        ({"webhook-timestamp": "9" * 40}, BODY, 0),
        ({"webhook-timestamp": "-1614265330"}, BODY, 0),
        ({}, BODY + b" ", 0),
        ({}, b"", 0),
        ({}, BODY, 6),
        ({}, BODY, -6),
    ],
)
def test_what_is_forged_or_old_is_refused(
    changed: dict[str, str], body: bytes, minutes: int
) -> None:
    with pytest.raises(WebhookRefusedError):
        check({**HEADERS, **changed}, body, AT + timedelta(minutes=minutes))
