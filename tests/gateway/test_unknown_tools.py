"""A server that does not have a listed tool for a client with fewer capabilities."""

import pytest

from registry.core.json import JsonObject
from registry.gateway.protocol.era_translation import explain_unknown_tool, lacking_capabilities

TOLD = (
    ". The server may offer this tool only to clients with elicitation or sampling, "
    "which this client did not declare."
)


def error(message: str) -> JsonObject:
    return {"id": 1, "error": {"code": -32602, "message": message}}


def failure(text: str) -> JsonObject:
    return {"id": 1, "result": {"isError": True, "content": [{"type": "text", "text": text}]}}


@pytest.mark.parametrize("answer", [error, failure])
@pytest.mark.parametrize("said", ["Tool ask not found", "Unknown tool: ask", "Tool ask disabled"])
def test_the_client_learns_which_capabilities_it_lacks(answer: object, said: str) -> None:
    assert callable(answer)
    body = answer(said)

    assert explain_unknown_tool(body, "ask", lacking_capabilities({"roots": {}}))
    assert body == answer(said + TOLD)


@pytest.mark.parametrize(
    "answer",
    [
        error("Invalid arguments for tool ask"),
        failure("The file was not found"),
        {"id": 1, "result": {"isError": False, "content": [{"text": "ask: not found"}]}},
        {"id": 1, "result": None},
        {"id": 1, "error": {"message": None}},
    ],
)
def test_other_answers_pass_as_they_are(answer: JsonObject) -> None:
    assert not explain_unknown_tool(answer, "ask", ["sampling"])
