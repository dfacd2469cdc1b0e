"""The harness gives names of the combined path back without touching anything else."""

import orjson
import pytest
from multidict import CIMultiDict

from tests.fakes.renaming import Renaming

RENAMING = Renaming("every")
LIST = {"tools": [{"name": "every__echo", "title": "every__"}, {"name": "other__echo"}]}
STRIPPED = {"tools": [{"name": "echo", "title": "every__"}]}


def message(method: str, **params: object) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


@pytest.mark.parametrize("method", ["tools/call", "prompts/get"])
def test_a_name_and_the_header_that_repeats_it_get_the_prefix(method: str) -> None:
    headers = CIMultiDict({"Mcp-Name": "  echo "})

    body, is_list = RENAMING.request(message(method, name="echo"), headers)

    assert body == message(method, name="every__echo")
    assert headers["Mcp-Name"] == "  every__echo "
    assert not is_list


def test_a_completion_refers_to_a_prompt_under_its_prefix() -> None:
    sent = message("completion/complete", ref={"type": "ref/prompt", "name": "greet"})

    body, _ = RENAMING.request(sent, CIMultiDict())

    ref = {"type": "ref/prompt", "name": "every__greet"}
    assert body == message("completion/complete", ref=ref)


@pytest.mark.parametrize(
    "sent", [message("resources/read", uri="test://x"), b"", b"no JSON", b"[1]"]
)
def test_everything_else_is_sent_as_it_was(sent: bytes) -> None:
    headers = CIMultiDict({"Mcp-Name": "test://x"})

    assert RENAMING.request(sent, headers) == (sent, False)
    assert headers == {"Mcp-Name": "test://x"}


def test_a_list_has_the_server_s_own_names_and_nothing_of_others() -> None:
    _, is_list = RENAMING.request(message("tools/list"), CIMultiDict())

    listed = RENAMING.listed(orjson.dumps({"id": 1, "result": LIST}))

    assert is_list
    assert orjson.loads(listed) == {"id": 1, "result": STRIPPED}


def test_a_list_in_an_event_stream_keeps_its_frames() -> None:
    data = orjson.dumps({"id": 1, "result": LIST})

    listed = RENAMING.listed(b"event: message\ndata: " + data + b"\n\n")

    stripped = orjson.dumps({"id": 1, "result": STRIPPED})
    assert listed == b"event: message\ndata: " + stripped + b"\n\n"
