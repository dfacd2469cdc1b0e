"""The exchange below aiohttp's session: TLS as aiohttp has it, and no spoilt connection."""

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from registry.http.client.exchange import KEEP_ALIVE_SECONDS
from registry.upstream.guard import UrlGuard
from registry.upstream.pool import create_upstream_session, guarded_connector
from tests.fakes.wires import TIMEOUT, wire_over

ANSWER = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def pool() -> aiohttp.ClientSession:
    """Return the gateway's own pool, which may connect to loopback."""
    return create_upstream_session(
        UrlGuard(["127.0.0.0/8"]), connect_timeout_seconds=5, idle_timeout_seconds=5
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1 that only itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    begins = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(begins.replace(year=2100))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def connections() -> list[asyncio.StreamWriter]:
    """Return the connections that the TLS server gets."""
    return []


@pytest.fixture
async def secure_url(
    certificate: Path, connections: list[asyncio.StreamWriter]
) -> AsyncIterator[URL]:
    """Return the address of a TLS server that answers every request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
                await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        yield URL(f"https://127.0.0.1:{port}/mcp")


async def test_a_trusted_server_is_reached_over_tls(certificate: Path, secure_url: URL) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    connector = guarded_connector(UrlGuard(["127.0.0.0/8"]), ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, wire_over(session) as wire:
        answer = await wire.request("GET", secure_url, {}, b"", timeout=TIMEOUT)
        body = await answer.body.read()
        answer.close()

    assert (answer.status, body) == (200, b"{}")


async def test_requests_share_a_connection_over_tls(
    certificate: Path, secure_url: URL, connections: list[asyncio.StreamWriter]
) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    connector = guarded_connector(UrlGuard(["127.0.0.0/8"]), ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, wire_over(session) as wire:
        for _ in range(3):
            answer = await wire.request("GET", secure_url, {}, b"", timeout=TIMEOUT)
            await answer.body.read()
            answer.close()

    assert len(connections) == 1


async def test_a_connection_that_waited_too_long_is_not_used_even_before_it_is_swept(
    certificate: Path,
    secure_url: URL,
    connections: list[asyncio.StreamWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("registry.http.client.exchange.monotonic", lambda: now)
    context = ssl.create_default_context(cafile=str(certificate))
    connector = guarded_connector(UrlGuard(["127.0.0.0/8"]), ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, wire_over(session) as wire:
        for _ in range(2):
            answer = await wire.request("GET", secure_url, {}, b"", timeout=TIMEOUT)
            await answer.body.read()
            answer.close()
            now += KEEP_ALIVE_SECONDS

    assert len(connections) == 2


@pytest.mark.parametrize("stray", [ANSWER, b""], ids=["an answer", "the end"])
async def test_what_the_loop_has_not_seen_yet_spoils_a_connection_too(stray: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = URL(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        async with asyncio.timeout(30), pool() as session, wire_over(session) as wire:

            async def ask() -> int:
                answer = await wire.request("GET", url, {}, b"", timeout=TIMEOUT)
                await answer.body.read()
                answer.close()
                return answer.status

            async def serve() -> socket.socket:
                peer, _ = await loop.sock_accept(listener)
                await loop.sock_recv(peer, 65536)
                await loop.sock_sendall(peer, ANSWER)
                return peer

            _, first = await asyncio.gather(ask(), serve())
            # No turn of the loop lies between this and the next request.
            first.setblocking(True)
            first.sendall(stray) if stray else first.shutdown(socket.SHUT_WR)
            status, second = await asyncio.gather(ask(), serve())

            first.close()
            second.close()

    assert status == 200


async def test_a_server_that_nobody_vouches_for_is_not_talked_to(secure_url: URL) -> None:
    async with pool() as session, wire_over(session) as wire:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await wire.request("GET", secure_url, {}, b"", timeout=TIMEOUT)
