"""Calls with preset arguments: what the server gets."""

import pytest

from registry.gateway.protocol.envelope import Envelope, load_object, read_envelope
from registry.gateway.protocol.messages import with_arguments

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"%s}}'


def envelope(arguments: bytes) -> Envelope:
    raw = CALL % arguments
    return read_envelope(raw, load_object(raw))


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        (b"", b',"arguments":{"repo":"app"}'),
        (b',"arguments":null', b',"arguments":{"repo":"app"}'),
        (b',"arguments":{"q":1}', b',"arguments":{"q":1,"repo":"app"}'),
        (b',"arguments":{"repo":"secret","q":1}', b',"arguments":{"repo":"app","q":1}'),
        # Numbers that one parser rounds, and members that are not known, stay as they are.
        (
            b',"arguments":{"n": 123456789012345678901234567890},"x":{"y":[]}',
            b',"arguments":{"n":123456789012345678901234567890,"repo":"app"},"x":{"y":[]}',
        ),
        (b',"arguments":[]', b',"arguments":[]'),
    ],
    ids=str,
)
def test_preset_arguments_replace_those_of_the_client(sent: bytes, forwarded: bytes) -> None:
    merged = with_arguments(envelope(sent), {"repo": "app"})

    assert bytes(merged.raw) == CALL % forwarded
