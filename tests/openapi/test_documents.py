"""Parsing of descriptions by untrusted authors: what is read, and what is refused in time."""

import json
import time

import pytest

from registry.openapi.documents import MAX_BYTES, MAX_DEPTH, load
from registry.openapi.errors import DescriptionError


def test_yaml_is_read_as_people_who_write_descriptions_mean_it() -> None:
    text = b"on: 1\nno: off\nday: 2024-02-29\n200: {ok: yes}\n3.0: ~\noctal: 0o17\nbig: 1e3\n"

    assert load(text) == {
        "on": 1,
        "no": "off",
        "day": "2024-02-29",
        "200": {"ok": "yes"},
        "3.0": None,
        "octal": "0o17",
        "big": 1000.0,
    }


def laughs(levels: int) -> bytes:
    """Return YAML whose aliases double ten times at each level."""
    lines = [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)
    ]
    return "\n".join(['a0: &a0 ["lol"]', *lines]).encode()


def chained(depth: int) -> bytes:
    """Return JSON of some depth."""
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(laughs(12), "values with its aliases", id="a billion laughs"),
        pytest.param(
            b"a: &a [*a]", "neither JSON nor YAML|nested deeper", id="an alias to itself"
        ),
        pytest.param(b"a: &a {b: *a}", "neither JSON nor YAML|nested deeper", id="in a mapping"),
        pytest.param(b"{" + b" " * (50 * 2**20) + b"}", "more than 32 MiB", id="50 MiB"),
        pytest.param(b"a: " + b"b" * (20 * 2**20), "use JSON", id="20 MiB of YAML"),
        pytest.param(chained(MAX_DEPTH + 1), "nested deeper", id="deep"),
        pytest.param(
            chained(100_000),
            "JSON nor YAML|nested deeper",
            id="very deep",
            marks=pytest.mark.integration,
        ),
        pytest.param(
            b"[" * 100_000, "nested deeper", id="deep YAML", marks=pytest.mark.integration
        ),
        pytest.param(b"a: !!python/object/apply:os.system [id]", "JSON nor YAML", id="an object"),
        pytest.param(b"a: !!binary /w==\n? [1]\n: 2", "no text|JSON nor YAML", id="odd names"),
        pytest.param(b"[1]", "no object", id="a list"),
        pytest.param(b"\xff\xfe", "JSON nor YAML|no object", id="no text"),
        pytest.param(b"", "no object", id="nothing"),
    ],
)
def test_what_is_no_description_is_refused_in_a_moment(content: bytes, reason: str) -> None:
    began = time.process_time()

    with pytest.raises(DescriptionError, match=reason):
        load(content)

    assert time.process_time() - began < 8


def test_of_a_repeated_member_the_last_counts() -> None:
    assert load(b'{"openapi": "3.0.0", "openapi": "3.1.0"}') == {"openapi": "3.1.0"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_json_is_none_of_ours(number: str) -> None:
    read = load(f'{{"limit": {number}}}'.encode())

    # As YAML, which JSON with such words is, it is a text.
    assert json.dumps(read, allow_nan=False) == json.dumps({"limit": number})


def test_the_bound_is_above_the_largest_known() -> None:
    assert MAX_BYTES > 20 * 2**20


@pytest.mark.integration
def test_long_yaml_is_read_as_short_yaml_is() -> None:
    rows = "".join(f"- {{on: {number}, big: 123456789012345678901}}\n" for number in range(2_000))

    read = load(f"openapi: 3.1.0\nrows:\n{rows}".encode())

    assert read["openapi"] == "3.1.0"
    assert read["rows"] == [{"on": one, "big": 123456789012345678901} for one in range(2_000)]


@pytest.mark.integration
def test_an_error_in_long_yaml_says_where_it_is() -> None:
    with pytest.raises(DescriptionError, match="in line 5002"):
        load(b"a: 1\n" * 5_000 + b"b: [\n")
