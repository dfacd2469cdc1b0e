"""Results of tools from answers of APIs, and what a projection leaves of them."""

import base64
from typing import Any

import orjson
import pytest

from registry.openapi.projection import Projection, ProjectionError
from registry.upstream.rest.results import (
    MAX_ERROR_BYTES,
    MAX_RESULT_BYTES,
    RestAnswer,
    Shape,
    result_of,
)

PROMISED = Shape(is_promised=True, expects_json=True)


def of(
    body: bytes, content_type: str = "application/json", shape: Shape = PROMISED, **changes: Any
) -> Any:
    """Return the result of an answer, as it is sent."""
    answer = RestAnswer(changes.pop("status", 200), content_type, body, **changes)
    return orjson.loads(orjson.dumps(result_of(answer, shape)))


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def test_an_object_is_structured_and_text() -> None:
    assert of(b'{ "a": [1, 2.50],\n "b": "\xc3\xa9" }') == {
        "content": [text('{"a":[1,2.5],"b":"é"}')],
        "structuredContent": {"a": [1, 2.5], "b": "é"},
        "isError": False,
    }


@pytest.mark.parametrize("body", [b"[1,2]", b'"text"', b"5", b"true", b"null"])
def test_what_is_no_object_is_wrapped_where_the_tool_says_so(body: bytes) -> None:
    wrapped = of(body, shape=Shape(wraps=True, is_promised=True))
    plain = of(body, shape=Shape())

    assert wrapped["structuredContent"] == {"result": orjson.loads(body)}
    assert plain == {"content": [text(body.decode())], "isError": False}


def test_numbers_of_any_size_stay_what_they_are() -> None:
    body = b'{"id":123456789012345678901234567890,"n":18446744073709551615}'

    result = result_of(RestAnswer(200, "application/json", body), PROMISED)

    assert b'"structuredContent":' + body in orjson.dumps(result)
    assert result["content"] == [text(body.decode())]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json; charset=utf-8", b'\xef\xbb\xbf{"a":"\xc3\xa9"}'),
        ("application/json; charset=iso-8859-1", b'{"a":"\xe9"}'),
        ("application/json", '{"a":"é"}'.encode("utf-16")),
        ("application/problem+json", b'{"a":"\xc3\xa9"}'),
        ("text/plain", b'{"a":"\xc3\xa9"}'),
        ("", b'{"a":"\xc3\xa9"}'),
        ("application/octet-stream", b'{"a":"\xc3\xa9"}'),
    ],
)
def test_json_is_read_whatever_it_is_called_and_however_it_is_encoded(
    content_type: str, body: bytes
) -> None:
    assert of(body, content_type)["structuredContent"] == {"a": "é"}


@pytest.mark.parametrize("body", [b'{"a":', b"{'a': 1}", b"<html>", b'{"a":NaN}', b"[" * 5000])
def test_broken_json_is_shown_as_it_is(body: bytes) -> None:
    result = of(body, shape=Shape())

    assert result["content"][0] == text(body.decode())
    assert result["content"][1] == text("The API called this JSON, but it cannot be read as such.")
    assert "structuredContent" not in result
    assert result["isError"] is False


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", b"{"), ("text/html", b"<h1>Log in</h1>"), ("text/plain", b"fine")],
)
def test_what_lacks_promised_content_is_a_failed_result(content_type: str, body: bytes) -> None:
    # Clients that know the output schema would refuse it, and show the model nothing.
    result = of(body, content_type)

    assert result["isError"] is True
    assert result["content"][0] == text(body.decode())


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("text/plain; charset=latin-1", b"\xe9", "é"),
        ("text/csv", b"a,b\n1,2\n", "a,b\n1,2\n"),
        ("application/xml", "<a>é</a>".encode(), "<a>é</a>"),
        ("application/atom+xml", b"<a/>", "<a/>"),
        ("image/svg+xml", b"<svg/>", "<svg/>"),
        ("text/plain; charset=no-such", b"a", "a"),
        ("text/plain; charset=idna", b"xn--a", "xn--a"),
        ("text/plain", b"\xff\xfea\x00", "a"),
        ("text/html", b"\xff", "\ufffd"),
        ("", b"plain", "plain"),
    ],
)
def test_texts_are_text(content_type: str, body: bytes, said: str) -> None:
    assert of(body, content_type, Shape()) == {"content": [text(said)], "isError": False}


def test_images_sounds_and_other_bytes_are_content_of_their_own_kind() -> None:
    data = base64.b64encode(b"\x00\x01").decode()
    kinds = ["image/png", "audio/wav; rate=1", "application/pdf", "application/octet-stream", ""]

    found = [of(b"\x00\x01", kind, Shape(), place="/f/1")["content"] for kind in kinds]

    assert found == [
        [{"type": "image", "data": data, "mimeType": "image/png"}],
        [{"type": "audio", "data": data, "mimeType": "audio/wav"}],
        [
            {
                "type": "resource",
                "resource": {"uri": "api:/f/1", "mimeType": "application/pdf", "blob": data},
            }
        ],
        *[
            [
                {
                    "type": "resource",
                    "resource": {
                        "uri": "api:/f/1",
                        "mimeType": "application/octet-stream",
                        "blob": data,
                    },
                }
            ]
        ]
        * 2,
    ]


def test_no_body_says_so() -> None:
    assert of(b"", "", Shape(), status=204) == {
        "content": [text("HTTP 204 No Content: no body.")],
        "isError": False,
    }
    assert of(b"", "", PROMISED, status=204)["structuredContent"] == {}


def test_an_error_tells_status_body_and_when_to_try_again() -> None:
    result = of(b'{"message":"slow down"}', status=429, retry_after="30")

    assert result == {
        "content": [
            text("The API answered HTTP 429 Too Many Requests. Retry after: 30 seconds."),
            text('{"message":"slow down"}'),
        ],
        "_meta": {"mcp-gateway-registry/http": {"status": 429, "retryAfter": "30"}},
        "isError": True,
    }


@pytest.mark.parametrize("status", [304, 400, 404, 418, 500, 599])
def test_what_is_no_success_is_a_failed_result(status: int) -> None:
    assert of(b"", "", status=status)["isError"] is True


def test_the_body_of_an_error_is_bounded() -> None:
    body = b"x" * (MAX_ERROR_BYTES + 10)

    result = of(body, "text/plain", status=500)

    said = result["content"][1]["text"]
    assert said == (
        "x" * MAX_ERROR_BYTES
        + f"\n[cut: 10 of {len(body)} bytes follow here, which are not shown]"
    )


def test_an_error_does_not_quote_what_it_was_sent() -> None:
    answer = RestAnswer(401, "application/json", b'{"error":"bad key s3cr3t-key-12345"}')

    result = result_of(answer, sent=[("X-Api-Key", "s3cr3t-key-12345")])

    assert b"s3cr3t" not in orjson.dumps(result)


def test_an_error_of_bytes_shows_none() -> None:
    assert len(of(b"\x00\x01\xff", "image/png", status=500)["content"]) == 1


def test_what_is_longer_than_a_result_is_cut_and_says_how_much() -> None:
    known = of(b"a" * MAX_RESULT_BYTES, "text/plain", Shape(), is_cut=True, length=10**9)
    unknown = of(b"[1,2", "application/json", Shape(), is_cut=True)

    assert known["content"][0]["text"].endswith(
        f"a\n[cut: {10**9 - MAX_RESULT_BYTES} of {10**9} bytes follow here, which are not shown]"
    )
    assert unknown["content"][0] == text("[1,2\n[cut: more follow here, which are not shown]")


def test_bytes_that_are_too_long_are_left_out() -> None:
    result = of(b"\x00" * 10, "image/png", Shape(), is_cut=True, length=10**9)

    assert result == {
        "content": [
            text(
                "The API answered 1000000000 bytes of image/png, where a result takes at most "
                "1048576 bytes; nothing of it is shown."
            )
        ],
        "isError": True,
    }


def test_a_projection_leaves_what_it_names() -> None:
    shape = Shape(projection=Projection("items[?n > `1`].{name: name, id: id}"))
    body = b'{"items":[{"n":1,"name":"a","id":1},{"n":2,"name":"b","id":2,"more":"x"}]}'

    assert of(body, shape=shape) == {
        "content": [text('[{"name":"b","id":2}]')],
        "structuredContent": {"result": [{"name": "b", "id": 2}]},
        "isError": False,
    }


def test_a_projection_that_does_not_fit_says_so() -> None:
    shape = Shape(projection=Projection("length(a)"))

    result = of(b'{"a":5}', shape=shape)

    assert result["isError"] is True
    assert result["content"][0]["text"].startswith("The projection of this tool does not fit: ")


@pytest.mark.parametrize(
    ("content_type", "is_cut"),
    [("text/html", False), ("application/json", True), ("image/png", False)],
)
def test_what_cannot_be_projected_is_not_shown(content_type: str, is_cut: bool) -> None:  # noqa: FBT001 - a table
    shape = Shape(projection=Projection("a"))

    result = of(b"hidden", content_type, shape, is_cut=is_cut)

    assert result["isError"] is True
    assert "hidden" not in str(result)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("a[", "is no JMESPath"),
        ("no_such(", "is no JMESPath"),
        ("a." * 600 + "a", "is longer than 1000 characters"),
        ("|".join(["[@,@]"] * 8), "repeats its input too often"),
        ("|".join(["[@,@][]"] * 8), "repeats its input too often"),
        ("|".join(["{a:@,b:@}"] * 8), "repeats its input too often"),
        ("map(&[@,@,@,@,@],[@,@,@,@])", "repeats its input too often"),
        ("(" * 900, "is no JMESPath"),
    ],
)
def test_what_is_no_projection_or_one_that_grows_is_refused(expression: str, reason: str) -> None:
    with pytest.raises(ProjectionError, match=reason):
        Projection(expression)


def test_many_members_may_be_chosen() -> None:
    chosen = ", ".join(f"m{number}: f{number}.x" for number in range(40))

    found = Projection("{" + chosen + "}").of({"f7": {"x": 1}}, 10_000)

    assert isinstance(found, dict)
    assert found["m7"] == 1


def test_a_projection_may_not_leave_more_than_a_result_takes() -> None:
    with pytest.raises(ProjectionError, match="leaves more than 100 bytes"):
        Projection("[@,@]").of("x" * 60, 100)
