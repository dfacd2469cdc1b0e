"""Which addresses may be contacted."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.upstream.errors import UnsafeAddressError, UpstreamConnectError
from registry.upstream.guard import NEVER_ALLOWED, NOT_PUBLIC, UrlGuard, is_public

STRICT = UrlGuard(())
LOOPBACK = UrlGuard(("127.0.0.0/8", "::1/128"))
EVERYTHING = UrlGuard(("0.0.0.0/0", "::/0"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "must start with http"),
        ("gopher://example.com/", "must start with http"),
        ("//example.com/mcp", "must start with http"),
        ("http:///mcp", "names no host"),
        ("http://example.com:0/", "names no host"),
        ("http://example.com:99999/", "not a valid URL"),
        ("http://[::1/", "not a valid URL"),
        ("http://user:pass@example.com/", "user name or password"),
        ("http://token@example.com/", "user name or password"),
        ("http://example.com\\@127.0.0.1/", "names no host"),
        ("http://exa mple.com/", "spaces or control"),
        ("http://example.com/\r\nX: y", "spaces or control"),
        ("http://[fe80::1%25eth0]/", "escaped host or a zone"),
        ("http://127%2e0.0.1/", "escaped host or a zone"),
        ("http://2130706433/", "non-canonical IP address"),
        ("http://0x7f.1/", "non-canonical IP address"),
        ("http://0x7f000001/", "non-canonical IP address"),
        ("http://127.1/", "non-canonical IP address"),
        ("http://0177.0.0.1/", "non-canonical IP address"),
        ("http://example.com/" + "a" * 2048, "longer than"),
    ],
)
def test_urls_of_a_form_that_hides_its_target_are_refused(url: str, reason: str) -> None:
    with pytest.raises(UnsafeAddressError, match=reason):
        LOOPBACK.check_syntax(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "::ffff:0:7f00:1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "2001:0:7f00:1::",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "203.0.113.9",
        "2001:db8::1",
        "2001:2::1",
        "2001:10::1",
        "3fff::1",
        "5f00::1",
        "100::1",
        "4000::1",
        "fd12::1",
    ],
)
async def test_private_addresses_are_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(UnsafeAddressError):
        await STRICT.resolve(host, 80)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.0.9",
        "::ffff:192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fe80::1",
        "fec0::1",
        "0.0.0.0",  # noqa: S104 - an address to refuse
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "2001:0:a9fe:a9fe::",
        "::ffff:0:a9fe:a9fe",
    ],
)
async def test_no_setting_allows_metadata_link_local_and_multicast(host: str) -> None:
    with pytest.raises(UnsafeAddressError):
        await EVERYTHING.resolve(host, 80)


async def test_an_allowed_network_is_allowed_and_others_stay_refused() -> None:
    guard = UrlGuard(("10.1.0.0/16",))

    allowed = await guard.resolve("10.1.2.3", 8080)

    assert [(address.host, address.port) for address in allowed] == [("10.1.2.3", 8080)]
    with pytest.raises(UnsafeAddressError, match="UPSTREAM_ALLOWED_NETWORKS"):
        await guard.resolve("10.2.0.1", 8080)


async def test_public_addresses_are_allowed() -> None:
    assert (await STRICT.resolve("93.184.216.34", 443))[0].host == "93.184.216.34"
    assert (await STRICT.resolve("192.31.196.1", 443))[0].host == "192.31.196.1"
    assert (await STRICT.resolve("2606:2800:220:1::1", 443))[0].host == "2606:2800:220:1::1"


@pytest.mark.requirement("E-04")
async def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    with pytest.raises(UnsafeAddressError):
        await STRICT.resolve("localhost", 80)

    assert {address.host for address in await LOOPBACK.resolve("localhost", 80)} <= {
        "127.0.0.1",
        "::1",
    }


async def test_a_name_that_does_not_exist_is_a_failed_connection() -> None:
    with pytest.raises(UpstreamConnectError, match=r"no-such-host\.invalid"):
        await STRICT.resolve("no-such-host.invalid", 80)


@given(st.ip_addresses())
def test_what_is_allowed_without_a_setting_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    try:
        STRICT.judge_literal(str(address))
    except UnsafeAddressError:
        return
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert is_public(mapped or address)


@pytest.mark.parametrize("network", [*NEVER_ALLOWED, *NOT_PUBLIC], ids=str)
def test_the_first_and_the_last_address_of_each_network_are_refused(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    for address in (network[0], network[-1]):
        with pytest.raises(UnsafeAddressError):
            STRICT.judge_literal(str(address))
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_reached_by_a_form_of_ipv6_that_it_would_not_be_reached_by(
    address: ipaddress.IPv4Address,
) -> None:
    def is_allowed(host: str) -> bool:
        try:
            STRICT.judge_literal(host)
        except UnsafeAddressError:
            return False
        return True

    number = int(address)
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | number)
    nat64 = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    six_to_four = ipaddress.IPv6Address((0x2002 << 112) | (number << 80))
    teredo = ipaddress.IPv6Address((0x20010000 << 96) | (number ^ 0xFFFF_FFFF))
    compatible = ipaddress.IPv6Address(number)

    assert is_allowed(str(mapped)) == is_allowed(str(address))
    assert not any(is_allowed(str(host)) for host in (nat64, six_to_four, teredo, compatible))
