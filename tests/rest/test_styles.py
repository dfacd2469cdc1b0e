"""The parameter styles: the table of the OpenAPI specification, and what no style can carry."""

import pytest

from registry.core.json import JsonObject, JsonValue
from registry.openapi.binding import Location, OperationBinding, ParameterBinding, Style
from registry.upstream.rest.requests import ArgumentError, request_of

ARRAY: JsonValue = ["blue", "black", "brown"]
OBJECT: JsonValue = {"R": 100, "G": 200, "B": 150}

STYLE_EXAMPLES: list[tuple[Style, bool, str, str | None, str | None, str | None, str]] = [
    # OpenAPI 3.2.0, 4.12.6 "Style Examples", for a parameter named `color`.
    ("matrix", False, ";color", ";color=blue", ";color=blue,black,brown",
     ";color=R,100,G,200,B,150", "path"),
    ("matrix", True, ";color", ";color=blue", ";color=blue;color=black;color=brown",
     ";R=100;G=200;B=150", "path"),
    ("label", False, ".", ".blue", ".blue,black,brown", ".R,100,G,200,B,150", "path"),
    ("label", True, ".", ".blue", ".blue.black.brown", ".R=100.G=200.B=150", "path"),
    ("simple", False, "", "blue", "blue,black,brown", "R,100,G,200,B,150", "path"),
    ("simple", True, "", "blue", "blue,black,brown", "R=100,G=200,B=150", "path"),
    ("simple", False, "", "blue", "blue,black,brown", "R,100,G,200,B,150", "header"),
    ("simple", True, "", "blue", "blue,black,brown", "R=100,G=200,B=150", "header"),
    ("form", False, "color=", "color=blue", "color=blue,black,brown",
     "color=R,100,G,200,B,150", "query"),
    ("form", True, "color=", "color=blue", "color=blue&color=black&color=brown",
     "R=100&G=200&B=150", "query"),
    ("spaceDelimited", False, "color=", None, "color=blue%20black%20brown",
     "color=R%20100%20G%20200%20B%20150", "query"),
    ("pipeDelimited", False, "color=", None, "color=blue%7Cblack%7Cbrown",
     "color=R%7C100%7CG%7C200%7CB%7C150", "query"),
    ("deepObject", True, "color=", None, None,
     "color%5BR%5D=100&color%5BG%5D=200&color%5BB%5D=150", "query"),
    ("cookie", False, "color=", "color=blue", "color=blue,black,brown",
     "color=R,100,G,200,B,150", "cookie"),
    ("cookie", True, "color=", "color=blue", "color=blue; color=black; color=brown",
     "R=100; G=200; B=150", "cookie"),
    ("form", False, "color=", "color=blue", "color=blue,black,brown",
     "color=R,100,G,200,B,150", "cookie"),
    ("form", True, "color=", "color=blue", "color=blue; color=black; color=brown",
     "R=100; G=200; B=150", "cookie"),
]  # fmt: skip

CASES = [
    pytest.param(
        style, explode, location, value, expected, id=f"{style}-{explode}-{location}-{kind}"
    )
    for style, explode, *row, location in STYLE_EXAMPLES
    for kind, value, expected in zip(
        ("empty", "string", "array", "object"), ("", "blue", ARRAY, OBJECT), row, strict=True
    )
    if expected is not None
]  # fmt: skip


def sent(
    value: JsonValue,
    location: str = "query",
    style: Style = "form",
    *,
    explode: bool = True,
    allow_reserved: bool = False,
    content_type: str | None = None,
) -> str:
    """Return what is sent of one parameter `color`."""
    parameter = ParameterBinding(
        argument="color",
        name="color",
        location=Location(location),
        style=style,
        explode=explode,
        allow_reserved=allow_reserved,
        content_type=content_type,
    )
    path = "/x{color}" if location == "path" else "/x"
    binding = OperationBinding(method="GET", path=path, parameters=(parameter,))
    request = request_of(binding, {"color": value}, "https://api.example.com")
    match location:
        case "path":
            return request.target.removeprefix("/x")
        case "header":
            return request.headers["color"]
        case "cookie":
            return request.headers["Cookie"]
        case _:
            return request.target.removeprefix("/x?")


@pytest.mark.parametrize(("style", "explode", "location", "value", "expected"), CASES)
def test_the_table_of_the_specification(
    style: Style,
    explode: bool,  # noqa: FBT001 - a table
    location: str,
    value: JsonValue,
    expected: str,
) -> None:
    assert sent(value, location, style, explode=explode) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "color=true"),
        (False, "color=false"),
        (0, "color=0"),
        (3.0, "color=3"),
        (0.25, "color=0.25"),
        (1e-300, "color=1e-300"),
        (10**30, "color=1" + "0" * 30),
        (-5, "color=-5"),
        ("a b&c=d#e/é", "color=a%20b%26c%3Dd%23e%2F%C3%A9"),
        ([1, None, True], "color=1&color=true"),
        ({"a": None, "b": [1, {"c": 2}]}, "b=%5B1%2C%7B%22c%22%3A2%7D%5D"),
    ],
)
def test_values_are_written_as_text(value: JsonValue, expected: str) -> None:
    assert sent(value) == expected


@pytest.mark.parametrize("value", [None, [], {}])
@pytest.mark.parametrize("location", ["query", "cookie"])
def test_what_is_undefined_is_not_sent(value: JsonValue, location: str) -> None:
    parameter = ParameterBinding(
        argument="color", name="color", location=Location(location), style="form", explode=True
    )
    binding = OperationBinding(method="GET", path="/x", parameters=(parameter,))

    request = request_of(binding, {"color": value}, "https://api.example.com")

    assert request.url == "https://api.example.com/x"
    assert "Cookie" not in request.headers


def test_deep_objects_name_what_is_in_them() -> None:
    value: JsonObject = {"a": {"b": "x", "c": [1, {"d": 2}]}, "e": None}

    assert sent(value, style="deepObject") == (
        "color%5Ba%5D%5Bb%5D=x&color%5Ba%5D%5Bc%5D%5B0%5D=1&color%5Ba%5D%5Bc%5D%5B1%5D%5Bd%5D=2"
    )


def test_arrays_as_deep_objects_are_numbered() -> None:
    assert sent(["x", "y"], style="deepObject") == "color%5B0%5D=x&color%5B1%5D=y"


def test_reserved_characters_pass_in_a_query_except_those_that_end_the_parameter() -> None:
    value = ":/?[]@!$'()*,;=#&+ %41%zz"

    assert sent(value, allow_reserved=True) == ("color=:/?[]@!$'()*,;=%23%26%2B%20%41%25zz")


def test_reserved_characters_pass_in_a_path_except_those_that_end_the_segment() -> None:
    value = ":/?#[]@!$&'()*+,;=%2f"

    assert sent(value, "path", "simple", allow_reserved=True) == (":%2F%3F%23[]@!$&'()*+,;=%252f")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("query", "color=%7B%22a%22%3A%22b%2Fc%22%7D"),
        ("path", "%7B%22a%22%3A%22b%2Fc%22%7D"),
        ("header", '{"a":"b/c"}'),
        ("cookie", "color=%7B%22a%22%3A%22b%2Fc%22%7D"),
    ],
)
def test_parameters_with_a_content_type_are_written_as_that(location: str, expected: str) -> None:
    assert sent({"a": "b/c"}, location, content_type="application/json") == expected


@pytest.mark.parametrize(
    ("content_type", "value", "expected"),
    [
        ("application/x-www-form-urlencoded", {"a": "b c", "d": [1, 2]}, "a=b+c&d=1&d=2"),
        ("application/json", {"a": 1}, "%7B%22a%22%3A1%7D"),
        ("application/jsonpath", "$.a[*]", "%24.a%5B%2A%5D"),
    ],
)
def test_a_whole_query_string_is_written_as_its_content_type(
    content_type: str, value: JsonValue, expected: str
) -> None:
    assert sent(value, "querystring", content_type=content_type) == expected


@pytest.mark.parametrize(
    ("value", "location", "style", "explode", "reason"),
    [
        ("\ud800", "query", "form", True, "is not valid Unicode"),
        ("a\r\nX: y", "header", "simple", False, "holds characters that no header can carry"),
        ("a\0", "header", "simple", False, "holds characters that no header can carry"),
        ("é", "header", "simple", False, "holds characters that no header can carry"),
        (["a,b"], "header", "simple", False, "holds ',' in an item, which separates items here"),
        ("a; b=c", "cookie", "cookie", True, "holds characters that no cookie can carry"),
        ("a\r\nX: y", "cookie", "cookie", True, "holds characters that no cookie can carry"),
        (["a b"], "query", "spaceDelimited", False,
         "holds ' ' in an item, which separates items here"),
        (["a|b"], "query", "pipeDelimited", False,
         "holds '|' in an item, which separates items here"),
        (["a.b"], "path", "label", True, "holds '.' in an item, which separates items here"),
        ([1.5], "path", "label", True, "holds '.' in an item, which separates items here"),
        ("a\0b", "path", "simple", False, "holds control characters, which no path may"),
        ("a\r\nb", "path", "simple", False, "holds control characters, which no path may"),
        (float("inf"), "query", "form", True, "is no number of JSON"),
    ],
)  # fmt: skip
def test_what_a_style_cannot_carry_is_refused(
    value: JsonValue,
    location: str,
    style: Style,
    explode: bool,  # noqa: FBT001 - a table
    reason: str,
) -> None:
    with pytest.raises(ArgumentError) as raised:
        sent(value, location, style, explode=explode)

    assert (raised.value.argument, raised.value.reason) == ("color", reason)
