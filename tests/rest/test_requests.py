"""Requests from arguments: their inverse, their bodies, and arguments that want to leave."""

import base64
import json
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.json import JsonObject, JsonValue
from registry.openapi.binding import (
    BodyBinding,
    Location,
    OperationBinding,
    ParameterBinding,
    PartBinding,
    Style,
)
from registry.upstream.rest.requests import ArgumentError, Operation, request_of
from tests.rest.inverse import arguments_of, parts_of

BASE = "https://api.example.com"
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda text: not {*text.replace("\\", "/").split("/")} & {".", ".."}
)
HEADER_TEXTS = st.text(st.sampled_from("abcXYZ019-_.~ ()/:@"), min_size=1, max_size=12).map(
    lambda text: f"x{text}x"
)
COOKIE_TEXTS = st.text(st.sampled_from("abcXYZ019-_.~()/:@"), min_size=1, max_size=12)
NAMES = st.text(st.sampled_from("abcdefgh"), min_size=1, max_size=4)

SHAPES: list[tuple[str, Style, bool]] = [
    ("path", "simple", False),
    ("path", "simple", True),
    ("path", "label", False),
    ("path", "label", True),
    ("path", "matrix", False),
    ("path", "matrix", True),
    ("query", "form", False),
    ("query", "form", True),
    ("query", "spaceDelimited", False),
    ("query", "pipeDelimited", False),
    ("query", "deepObject", True),
    ("header", "simple", False),
    ("header", "simple", True),
    ("cookie", "form", False),
    ("cookie", "form", True),
    ("cookie", "cookie", False),
    ("cookie", "cookie", True),
]


UNCARRIED: Mapping[tuple[Style, bool], str] = {
    ("label", True): ".",
    ("spaceDelimited", False): " ",
    ("pipeDelimited", False): "|",
}
"""What separates items in styles that have no escape for it; test_styles.py has it refused."""


def of(texts: st.SearchStrategy[str], kind: str) -> st.SearchStrategy[JsonValue]:
    match kind:
        case "string":
            return texts
        case "array":
            return st.lists(texts, min_size=1, max_size=4)
        case _:
            return st.dictionaries(NAMES, texts, min_size=1, max_size=4)


@pytest.mark.parametrize("kind", ["string", "array", "object"])
@pytest.mark.parametrize(("location", "style", "explode"), SHAPES)
@given(data=st.data())
def test_a_server_reads_the_arguments_back(
    location: str,
    style: Style,
    explode: bool,  # noqa: FBT001 - a table
    kind: str,
    data: st.DataObject,
) -> None:
    if style == "deepObject" and kind != "object":
        return
    texts = {"header": HEADER_TEXTS, "cookie": COOKIE_TEXTS}.get(location, TEXTS)
    texts = texts.filter(lambda text: UNCARRIED.get((style, explode), "\0") not in text)
    value = data.draw(of(texts, kind))
    parameter = ParameterBinding(
        argument="a", name="p", location=Location(location), style=style, explode=explode
    )
    path = "/x/y{p}" if location == "path" else "/x"
    binding = OperationBinding(method="GET", path=path, parameters=(parameter,))

    request = request_of(binding, {"a": value}, BASE)

    assert arguments_of(binding, request, {"a": kind}) == {"a": value}


JSON_VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(owner=TEXTS, page=TEXTS, trace=HEADER_TEXTS, body=st.dictionaries(NAMES, JSON_VALUES))
def test_a_server_reads_a_whole_request_back(
    owner: str, page: str, trace: str, body: JsonObject
) -> None:
    binding = OperationBinding(
        method="POST",
        path="/users/{owner}/pages",
        parameters=(
            ParameterBinding(argument="owner", name="owner", location=Location.PATH),
            ParameterBinding(
                argument="query_page", name="page", location=Location.QUERY, style="form"
            ),
            ParameterBinding(argument="trace", name="X-Trace", location=Location.HEADER),
        ),
        body=BodyBinding(
            content_type="application/json", properties={"body_owner": "owner"}, is_open=True
        ),
    )
    arguments: JsonObject = {
        "owner": owner, "query_page": page, "trace": trace, "body_owner": 1, **body,
    }  # fmt: skip

    request = request_of(binding, arguments, BASE)

    kinds = dict.fromkeys(("owner", "query_page", "trace"), "string")
    assert arguments_of(binding, request, kinds) == arguments


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]
)
@given(data=st.data())
def test_a_server_reads_forms_and_texts_back(content_type: str, data: st.DataObject) -> None:
    if content_type == "text/plain":
        body = BodyBinding(content_type=content_type, argument="text")
        arguments = {"text": data.draw(TEXTS)}
    else:
        body = BodyBinding(content_type=content_type, properties={"a": "a", "b": "c"})
        arguments = {"a": data.draw(TEXTS), "b": data.draw(TEXTS)}
    binding = OperationBinding(method="POST", path="/x", body=body)

    request = request_of(binding, {**arguments}, BASE)

    assert arguments_of(binding, request, {}) == arguments


@given(
    files=st.lists(st.tuples(st.binary(max_size=200), TEXTS), min_size=1, max_size=3),
    texts=st.lists(TEXTS, min_size=1, max_size=3),
)
def test_a_server_reads_files_and_lists_back(
    files: list[tuple[bytes, str]], texts: list[str]
) -> None:
    body = BodyBinding(
        content_type="multipart/form-data",
        properties={"files": "file", "words": "word"},
        parts={"file": PartBinding(is_file=True)},
    )
    binding = OperationBinding(method="POST", path="/x", body=body)
    sent: JsonValue = [
        {"content": base64.b64encode(content).decode(), "filename": name}
        for content, name in files
    ]

    request = request_of(binding, {"files": sent, "words": [*texts]}, BASE)

    parts = parts_of(request)
    assert [content for name, content, _ in parts if name == "file"] == [one for one, _ in files]
    assert [content.decode() for name, content, _ in parts if name == "word"] == texts


def test_members_of_the_same_name_go_where_each_belongs() -> None:
    binding = OperationBinding(
        method="PUT",
        path="/users/{id}",
        parameters=(ParameterBinding(argument="id", name="id", location=Location.PATH),),
        body=BodyBinding(content_type="application/json", properties={"body_id": "id"}),
    )

    request = request_of(binding, {"id": "a", "body_id": 7}, f"{BASE}/v1/")

    assert (request.url, request.content) == (f"{BASE}/v1/users/a", b'{"id":7}')


@pytest.mark.parametrize("value", [[1, "a"], "text", 5, True, None, {"a": 1}, 2**70])
def test_any_json_may_be_the_body(value: JsonValue) -> None:
    binding = OperationBinding(
        method="POST",
        path="/x",
        body=BodyBinding(content_type="application/vnd.api+json", argument="items"),
    )

    request = request_of(binding, {"items": value}, BASE)

    assert request.content is not None
    assert json.loads(request.content) == value
    assert request.headers["Content-Type"] == "application/vnd.api+json"


def test_nothing_is_sent_where_no_body_is_given_and_an_empty_one_where_it_must_be() -> None:
    body = BodyBinding(content_type="application/json", properties={"a": "a"})
    optional = OperationBinding(method="POST", path="/x", body=body)
    required = optional.model_copy(update={"body": body.model_copy(update={"required": True})})

    assert request_of(optional, {}, BASE).content is None
    assert "Content-Type" not in request_of(optional, {}, BASE).headers
    assert request_of(required, {}, BASE).content == b"{}"


def test_forms_write_arrays_and_objects_as_their_parts_say() -> None:
    parts = {
        "deep": PartBinding(style="deepObject"),
        "list": PartBinding(style="form", explode=False),
        "json": PartBinding(content_type="application/json"),
    }
    names = ["deep", "list", "json", "plain", "many", "none"]
    binding = OperationBinding(
        method="POST",
        path="/x",
        body=BodyBinding(
            content_type="application/x-www-form-urlencoded",
            properties={name: name for name in names},
            parts=parts,
        ),
    )

    request = request_of(
        binding,
        {
            "deep": {"a": 1},
            "list": [1, 2],
            "json": [1],
            "plain": "a b",
            "many": ["x", "y"],
            "none": None,
        },
        BASE,
    )

    assert request.content == (b"deep%5Ba%5D=1&list=1,2&json=%5B1%5D&plain=a+b&many=x&many=y")


def multipart(arguments: JsonObject, **parts: PartBinding) -> OperationBinding:
    return OperationBinding(
        method="POST",
        path="/x",
        body=BodyBinding(
            content_type="multipart/form-data",
            properties={name: name for name in arguments},
            parts=parts,
        ),
    )


def test_files_are_parts_with_name_and_type() -> None:
    content = bytes(range(256))
    arguments: JsonObject = {
        "file": {
            "content": base64.b64encode(content).decode(),
            "content_type": "image/png",
            "filename": "ä.png",
        },
        "more": [{"content": "QQ=="}, {"content": "Qg=="}],
        "note": "two\r\nlines",
        "facts": {"a": 1},
    }
    binding = multipart(arguments, file=PartBinding(is_file=True), more=PartBinding(is_file=True))

    parts = parts_of(request_of(binding, arguments, BASE))

    assert [(name, found) for name, found, _ in parts] == [
        ("file", content),
        ("more", b"A"),
        ("more", b"B"),
        ("note", b"two\r\nlines"),
        ("facts", b'{"a":1}'),
    ]
    assert [part.get("Content-Type") for _, _, part in parts] == [
        "image/png",
        "application/octet-stream",
        "application/octet-stream",
        None,
        "application/json",
    ]


def test_names_of_files_stay_in_their_quotes() -> None:
    arguments: JsonObject = {
        "f": {"content": "QQ==", "filename": 'a"; name="admin\r\nX-Evil: 1\r\n\r\nbody'}
    }

    request = request_of(multipart(arguments, f=PartBinding(is_file=True)), arguments, BASE)

    assert request.content is not None
    assert b'filename="a%22; name=%22admin%0D%0AX-Evil: 1%0D%0A%0D%0Abody"\r\n' in request.content
    assert [name for name, _, _ in parts_of(request)] == ["f"]


def test_a_part_cannot_end_the_body() -> None:
    arguments: JsonObject = {"a": "x"}
    binding = multipart(arguments)
    first = request_of(binding, arguments, BASE).headers["Content-Type"].partition("=")[2]

    forged: JsonObject = {"a": f"x\r\n--{first}--\r\n"}
    parts = parts_of(request_of(binding, forged, BASE))

    assert [content for _, content, _ in parts] == [f"x\r\n--{first}--\r\n".encode()]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"content": "no base64!"}, "has a content that is no base64"),
        ({"content": "QQ==", "filename": "a\0"}, "has a name that holds control characters"),
        ({"content": "QQ==", "content_type": "a/b\r\nX: y"},
         "has a content_type that is no media type"),
        ({"filename": "a"}, "must be a file: an object whose member content is base64"),
        (5, "must be a file: an object whose member content is base64"),
    ],
)  # fmt: skip
def test_what_is_no_file_is_refused(value: JsonValue, reason: str) -> None:
    arguments: JsonObject = {"note": "x", "f": value}

    with pytest.raises(ArgumentError) as raised:
        request_of(multipart(arguments, f=PartBinding(is_file=True)), arguments, BASE)

    assert (raised.value.argument, raised.value.reason) == ("f", reason)


@pytest.mark.parametrize(
    ("content_type", "value", "expected", "expected_type"),
    [
        ("application/octet-stream", {"content": "AAE="}, b"\x00\x01", "application/octet-stream"),
        ("image/*", {"content": "AAE=", "content_type": "image/gif"}, b"\x00\x01", "image/gif"),
        ("*/*", "AAE=", b"\x00\x01", "application/octet-stream"),
    ],
)
def test_a_file_may_be_the_whole_body(
    content_type: str, value: JsonValue, expected: bytes, expected_type: str
) -> None:
    body = BodyBinding(content_type=content_type, argument="body", is_file=True)

    request = request_of(
        OperationBinding(method="PUT", path="/x", body=body), {"body": value}, BASE
    )

    assert request.content == expected
    assert request.headers["Content-Type"] == expected_type


@pytest.mark.parametrize(
    ("content_type", "expected_type"),
    [
        ("text/plain", "text/plain; charset=utf-8"),
        ("application/xml", "application/xml"),
        ("text/csv;charset=utf-8", "text/csv;charset=utf-8"),
    ],
)
def test_texts_are_sent_as_they_are(content_type: str, expected_type: str) -> None:
    body = BodyBinding(content_type=content_type, argument="body")

    request = request_of(
        OperationBinding(method="PUT", path="/x", body=body), {"body": "<a>é</a>"}, BASE
    )

    assert request.content == "<a>é</a>".encode()
    assert request.headers["Content-Type"] == expected_type


FILE = OperationBinding(
    method="DELETE",
    path="/files/{name}/content",
    parameters=(ParameterBinding(argument="name", name="name", location=Location.PATH),),
)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../admin",
        "a/../b",
        "..\\admin",
        "a/..",
        "./a",
        "..;/admin",
        ["..", ".."],
        [""],
        [],
        {},
        None,
        "a\0",
        "a\r\nHost: evil",
    ],
)
def test_what_a_server_would_take_for_another_path_is_refused(value: JsonValue) -> None:
    with pytest.raises(ArgumentError) as raised:
        request_of(FILE, {"name": value}, BASE)

    assert raised.value.argument == "name"


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("%2f", "%252f"),
        ("%2e%2e", "%252e%252e"),
        ("..%2fadmin", "..%252fadmin"),
        ("a?b=c#d", "a%3Fb%3Dc%23d"),
        ("a\\b", "a%5Cb"),
        ("@evil.example", "%40evil.example"),
        ("//evil.example", "%2F%2Fevil.example"),
        ("...", "..."),
        ("v1..v2", "v1..v2"),
        (";a=b", "%3Ba%3Db"),
    ],
)
def test_a_value_stays_in_its_segment(value: str, segment: str) -> None:
    request = request_of(FILE, {"name": value}, BASE)

    assert request.url == f"{BASE}/files/{segment}/content"
    assert unquote(segment) == value


def test_parts_of_a_segment_cannot_become_one_that_leads_up() -> None:
    binding = OperationBinding(
        method="GET",
        path="/files/.{a}/x",
        parameters=(ParameterBinding(argument="a", name="a", location=Location.PATH),),
    )

    with pytest.raises(ArgumentError):
        request_of(binding, {"a": "."}, BASE)
    with pytest.raises(ArgumentError):
        request_of(binding, {"a": ""}, BASE)


@given(values=st.lists(st.text(), min_size=3, max_size=3))
def test_no_argument_changes_host_scheme_or_shape_of_the_path(values: list[str]) -> None:
    binding = OperationBinding(
        method="GET",
        path="/a/{p}/b",
        parameters=(
            ParameterBinding(argument="p", name="p", location=Location.PATH),
            ParameterBinding(
                argument="q", name="q", location=Location.QUERY, style="form", allow_reserved=True
            ),
            ParameterBinding(argument="h", name="X-H", location=Location.HEADER),
        ),
    )
    arguments: JsonObject = dict(zip("pqh", values, strict=True))

    try:
        request = request_of(binding, arguments, BASE)
    except ArgumentError:
        return

    parts = urlsplit(request.url)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "api.example.com", "")
    assert len(parts.path.split("/")) == 4
    assert parts.query.count("&") == 0
    assert not set("\r\n\0") & {*request.target, *request.headers["X-H"]}


def test_an_object_cannot_set_another_parameter_of_the_query() -> None:
    binding = OperationBinding(
        method="GET",
        path="/x",
        parameters=(
            ParameterBinding(
                argument="filter",
                name="filter",
                location=Location.QUERY,
                style="form",
                explode=True,
            ),
            ParameterBinding(argument="t", name="tenant", location=Location.QUERY, style="form"),
        ),
    )

    assert request_of(binding, {"filter": {"a": 1}}, BASE).target == "/x?a=1"
    with pytest.raises(ArgumentError, match="must not set the parameter 'tenant'"):
        request_of(binding, {"filter": {"tenant": "other"}}, BASE)


@pytest.mark.parametrize(
    "name", ["Host", "Content-Length", "Transfer-Encoding", "Authorization", "Cookie", "a\r\nb"]
)
def test_headers_of_the_connection_and_credentials_are_no_arguments(name: str) -> None:
    binding = OperationBinding(
        method="GET",
        path="/x",
        parameters=(ParameterBinding(argument="h", name=name, location=Location.HEADER),),
    )

    request = request_of(binding, {"h": "evil.example"}, BASE)

    assert dict(request.headers) == {"Accept": "application/json, */*;q=0.5"}


def test_what_is_missing_or_unknown_is_named() -> None:
    with pytest.raises(ArgumentError) as missing:
        request_of(FILE, {}, BASE)
    with pytest.raises(ArgumentError) as unknown:
        request_of(FILE, {"name": "a", "base_url": "https://evil.example"}, BASE)

    assert (missing.value.argument, missing.value.reason) == ("name", "is required")
    assert (unknown.value.argument, unknown.value.reason) == (
        "base_url",
        "is none that this tool takes",
    )


@pytest.mark.parametrize(
    ("base_url", "own", "expected"),
    [
        ("https://a.example", None, "https://a.example/x"),
        ("https://a.example/v1/?key=1", None, "https://a.example/v1/x?key=1"),
        ("https://a.example/v1", "https://b.example/v2", "https://b.example/v2/x"),
        ("https://a.example/v1", "/v2", "https://a.example/v2/x"),
        ("https://user:pw@a.example:8443/", None, "https://a.example:8443/x"),
    ],
)
def test_an_operation_may_have_an_address_of_its_own(
    base_url: str, own: str | None, expected: str
) -> None:
    binding = OperationBinding(method="GET", path="/x", base_url=own)

    assert request_of(binding, {}, base_url).url == expected


@pytest.mark.parametrize("base_url", ["ftp://a.example", "/v1", "", "https://", "file:///etc"])
def test_an_address_that_is_none_of_http_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match="absolute HTTP URL"):
        Operation(OperationBinding(method="GET", path="/x"), base_url)


def test_the_answers_of_the_operation_are_asked_for() -> None:
    binding = OperationBinding(
        method="GET", path="/x", accepts=("application/json", "text/csv", "a/b\r\nX: y")
    )

    headers = request_of(binding, {}, BASE).headers

    assert headers["Accept"] == "application/json, text/csv;q=0.9, */*;q=0.1"


def test_an_object_cannot_set_what_the_address_of_the_api_sets() -> None:
    parameter = ParameterBinding(
        argument="f", name="f", location=Location.QUERY, style="form", explode=True
    )
    binding = OperationBinding(method="GET", path="/x", parameters=(parameter,))

    with pytest.raises(ArgumentError, match="must not set the parameter 'version'"):
        request_of(binding, {"f": {"version": "2"}}, f"{BASE}?version=1")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (Location.PATH, "makes an address that no server takes"),
        (Location.QUERY, "makes an address that no server takes"),
        (Location.HEADER, "is longer than a header can be"),
        (Location.COOKIE, "makes an address that no server takes"),
    ],
)
def test_long_values_are_refused_before_they_are_written(location: Location, reason: str) -> None:
    parameter = ParameterBinding(argument="a", name="a", location=location, allow_reserved=True)
    binding = OperationBinding(method="GET", path="/{a}", parameters=(parameter,))

    with pytest.raises(ArgumentError) as raised:
        request_of(binding, {"a": "é" * 100_000}, BASE)

    assert raised.value.reason == reason


def test_long_forms_are_refused_before_they_are_written() -> None:
    body = BodyBinding(
        content_type="application/x-www-form-urlencoded", properties={"a": "a", "b": "b"}
    )
    binding = OperationBinding(method="POST", path="/x", body=body)

    with pytest.raises(ArgumentError) as raised:
        request_of(binding, {"a": "x", "b": ["é" * 600_000]}, BASE)

    assert raised.value.argument == "b"


def test_an_address_that_no_server_takes_is_refused() -> None:
    with pytest.raises(ArgumentError, match="makes an address that no server takes"):
        request_of(FILE, {"name": "a" * 100_000}, BASE)
