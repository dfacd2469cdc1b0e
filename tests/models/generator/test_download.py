"""A release over HTTP: what is asked for, what is refused, and who sees the token."""

import json
from collections.abc import Iterator

import pytest

from packages.models.generator.download import DownloadLimits, Release
from packages.models.generator.errors import GenerationError
from tests.models.release_server import ReleaseServer, Reply, start_release_server

NAMES = frozenset({"Token.json", "User.json"})
TOKEN = "a token for private releases"


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    """Return a server with nothing on it."""
    with start_release_server() as started:
        yield started


@pytest.fixture
def elsewhere() -> Iterator[ReleaseServer]:
    """Return a server of another origin."""
    with start_release_server() as started:
        yield started


def test_files_are_read_from_the_folder_of_the_version(server: ReleaseServer) -> None:
    server.replies = {
        "/download/v0.0.32/Token.json": Reply(b"token"),
        "/download/v0.0.32/User.json": Reply(b"user"),
    }

    files = Release("v0.0.32", url=f"{server.url}/download").files(NAMES)

    assert files == {"Token.json": b"token", "User.json": b"user"}


@pytest.mark.parametrize("path", ["/mirror", "/mirror/v0.0.32", "/mirror/v0.0.32/"])
def test_files_may_lie_in_the_named_folder_itself(server: ReleaseServer, path: str) -> None:
    server.replies = {f"{path.rstrip('/')}/Token.json": Reply(b"token")}

    files = Release("v0.0.32", url=f"{server.url}{path}").files(NAMES)

    assert files == {"Token.json": b"token"}


def test_a_release_without_any_file_is_refused(server: ReleaseServer) -> None:
    release = Release("v0.0.32", url=server.url)

    with pytest.raises(GenerationError, match=r"127\.0\.0\.1 has no schemas of release v0\.0\.32"):
        release.files(NAMES)


def test_another_failure_than_not_found_is_refused(server: ReleaseServer) -> None:
    server.replies = {"/v0.0.32/Token.json": Reply(status=503)}

    with pytest.raises(GenerationError, match=r"answered 503 for Token\.json"):
        Release("v0.0.32", url=server.url).files(NAMES)


def test_a_file_beyond_the_bound_is_refused_before_it_ends(server: ReleaseServer) -> None:
    server.replies = {"/v0.0.32/Token.json": Reply(is_endless=True)}
    limits = DownloadLimits(file_bytes=100_000)

    with pytest.raises(GenerationError, match=r"Token\.json is larger than 100000 bytes"):
        Release("v0.0.32", url=server.url, limits=limits).files(NAMES)


def test_a_server_that_stops_in_the_middle_is_given_up(server: ReleaseServer) -> None:
    server.replies = {"/v0.0.32/Token.json": Reply(b"{", stalls=True)}
    limits = DownloadLimits(read_seconds=0.1)

    with pytest.raises(GenerationError, match=r"Token\.json cannot be read .*: ReadTimeout"):
        Release("v0.0.32", url=server.url, limits=limits).files(NAMES)


def test_a_download_that_takes_too_long_in_all_is_given_up(server: ReleaseServer) -> None:
    server.replies = {"/v0.0.32/Token.json": Reply(is_endless=True)}
    limits = DownloadLimits(file_bytes=1 << 40, total_seconds=0.1)

    with pytest.raises(GenerationError, match=r"took longer than 0\.1 seconds"):
        Release("v0.0.32", url=server.url, limits=limits).files(NAMES)


def test_a_server_that_is_away_is_named(server: ReleaseServer) -> None:
    with start_release_server() as gone:
        url = gone.url

    with pytest.raises(GenerationError, match=r"cannot be read from 127\.0\.0\.1: ConnectError"):
        Release("v0.0.32", url=url).files(NAMES)


def test_the_token_goes_to_the_named_origin(server: ReleaseServer) -> None:
    server.replies = {
        "/v0.0.32/Token.json": Reply(status=302, location="/files/Token.json"),
        "/files/Token.json": Reply(b"token"),
    }

    Release("v0.0.32", url=server.url, token=TOKEN).files(["Token.json"])

    assert server.tokens == {
        "/v0.0.32/Token.json": f"Bearer {TOKEN}",
        "/files/Token.json": f"Bearer {TOKEN}",
    }


def test_a_redirect_to_another_origin_does_not_carry_the_token(
    server: ReleaseServer, elsewhere: ReleaseServer
) -> None:
    target = f"{elsewhere.url}/Token.json"
    server.replies = {"/v0.0.32/Token.json": Reply(status=302, location=target)}
    elsewhere.replies = {"/Token.json": Reply(b"token")}

    files = Release("v0.0.32", url=server.url, token=TOKEN).files(["Token.json"])

    assert files == {"Token.json": b"token"}
    assert elsewhere.tokens == {"/Token.json": None}


def test_private_releases_are_read_through_the_api(
    server: ReleaseServer, elsewhere: ReleaseServer
) -> None:
    assets = [
        {"name": "Token.json", "url": f"{server.url}/assets/1"},
        {"name": "notes.txt", "url": f"{server.url}/assets/2"},
    ]
    server.replies = {
        "/tags/v0.0.32": Reply(json.dumps({"assets": assets}).encode()),
        "/assets/1": Reply(status=302, location=f"{elsewhere.url}/signed?sig=s"),
    }
    elsewhere.replies = {"/signed?sig=s": Reply(b"token")}

    release = Release("v0.0.32", url=elsewhere.url, api_url=f"{server.url}/tags", token=TOKEN)

    assert release.files(NAMES) == {"Token.json": b"token"}
    assert set(server.tokens.values()) == {f"Bearer {TOKEN}"}
    assert elsewhere.tokens == {"/signed?sig=s": None}


def test_without_a_token_the_api_is_not_asked(
    server: ReleaseServer, elsewhere: ReleaseServer
) -> None:
    server.replies = {"/v0.0.32/Token.json": Reply(b"token")}

    Release("v0.0.32", url=server.url, api_url=elsewhere.url).files(["Token.json"])

    assert elsewhere.asked == []


@pytest.mark.parametrize("body", [b"[]", b"{}", b"nonsense", b'{"assets": [1]}'])
def test_a_malformed_description_of_a_release_is_refused(
    server: ReleaseServer, body: bytes
) -> None:
    server.replies = {"/tags/v0.0.32": Reply(body)}
    release = Release("v0.0.32", api_url=f"{server.url}/tags", token=TOKEN)

    with pytest.raises(GenerationError, match="malformed"):
        release.files(NAMES)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://example.com/Token.json", r"example\.com must be read over https"),
        ("file:///etc/passwd", "must be read over https"),
        ("/v0.0.32/Token.json", "redirects too often"),
        ("https://me:secret@example.com/", "must not carry a user name"),
    ],
)
def test_a_bad_redirect_is_refused(server: ReleaseServer, location: str, message: str) -> None:
    server.replies = {"/v0.0.32/Token.json": Reply(status=302, location=location)}

    with pytest.raises(GenerationError, match=message):
        Release("v0.0.32", url=server.url).files(["Token.json"])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/schemas",
        "http://169.254.169.254/",
        "ftp://example.com/",
        "https://me:secret@example.com/",
        "https://",
        "http://[::",
    ],
)
def test_only_https_or_loopback_is_read(url: str) -> None:
    with pytest.raises(GenerationError) as refused:
        Release("v0.0.32", url=url)

    assert "secret" not in str(refused.value)
