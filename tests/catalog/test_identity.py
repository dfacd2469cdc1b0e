"""Keys of URLs and packages."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from registry.catalog.identity import Package, fits, keys_of, remote_key

PATHS = some.text(some.characters(blacklist_characters="#?\r\n\t", codec="utf-8"), max_size=20)


@pytest.mark.requirement("R-187")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTPS://Example.COM/mcp", "https://example.com/mcp"),
        ("https://example.com:443/mcp", "https://example.com/mcp"),
        ("http://example.com:080/", "http://example.com"),
        ("https://bücher.example/mcp", "https://xn--bcher-kva.example/mcp"),
        ("https://example.com/mcp#part", "https://example.com/mcp"),
        ("https://[2001:DB8:0::1]/", "https://[2001:db8::1]"),
    ],
)
def test_spellings_of_one_address_have_one_key(one: str, other: str) -> None:
    assert remote_key(one) == remote_key(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.com/mcp", "https://example.com/mcp/"),
        ("https://example.com/mcp", "https://example.com/MCP"),
        ("https://example.com/mcp?a=1", "https://example.com/mcp?a=2"),
        ("https://example.com/mcp", "http://example.com/mcp"),
        ("https://example.com:8443/mcp", "https://example.com/mcp"),
        ("https://straße.example/", "https://strasse.example/"),
    ],
)
def test_other_addresses_have_other_keys(one: str, other: str) -> None:
    assert remote_key(one) != remote_key(other)


@pytest.mark.requirement("R-187")
@given(
    host=some.sampled_from(["Example.com", "a-b.EXAMPLE", "münchen.example", "10.0.0.1"]),
    port=some.integers(1, 65535),
    path=PATHS,
    query=PATHS,
)
def test_path_and_query_stay_and_case_of_scheme_and_host_does_not_count(
    host: str, port: int, path: str, query: str
) -> None:
    rest = f":{port}/{path}" + (f"?{query}" if query else "")

    key = remote_key(f"https://{host}{rest}x")

    assert key == remote_key(f"HTTPS://{host.upper()}{rest}x")
    assert key is not None
    assert key.endswith(f"/{path}" + (f"?{query}x" if query else "x"))
    assert key == remote_key(key.removeprefix("remote:"))


@given(text=some.text(max_size=50))
def test_any_text_has_a_key_or_none(text: str) -> None:
    key = remote_key(text)

    assert key is None or remote_key(key.removeprefix("remote:")) == key


def test_a_loopback_url_says_nothing_where_there_is_a_package() -> None:
    package = Package("docker", "mcp/tool")

    assert keys_of(["http://localhost:3001/sse"], package) == ("container:oci:mcp/tool",)
    assert keys_of(["http://localhost:3001/sse"], None) == ("remote:http://localhost:3001/sse",)
    assert keys_of(["https://a.example"], package) == ("remote:https://a.example/",)


@pytest.mark.parametrize(
    ("url", "template", "expected"),
    [
        ("https://eu.x.example/a%2Fb/mcp", "https://{region}.x.example/{tenant}/mcp", True),
        ("https://x.example:81/mcp", "https://{host}:{port}/mcp", True),
        ("https://x.example/a/b/mcp", "https://x.example/{tenant}/mcp", False),
        ("https://evil.example/mcp", "https://{region}.x.example/mcp", False),
        ("https://x.example/mcp", "https://x.example/mcp", False),
    ],
)
def test_a_url_fits_one_with_variables(url: str, template: str, *, expected: bool) -> None:
    key, known = remote_key(url), remote_key(template)

    assert key is not None
    assert known is not None
    assert fits(key, known) is expected


@pytest.mark.parametrize(
    "url", ["https://a.example:99999/", "https://a.example:x/", "https://a b/", "https://[::x]/"]
)
def test_a_url_with_a_host_or_port_that_is_none_has_no_key(url: str) -> None:
    assert remote_key(url) is None
