"""What files of clients and of registries say, as bodies of the API."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.servers.files.forms import (
    Answer,
    FormError,
    Question,
    SkippedError,
    body_of,
    described,
)

CLAUDE = {
    "mcpServers": {
        "Weather Service": {
            "type": "http",
            "url": "https://weather.example/${REGION:-north}/mcp",
            "headers": {"Authorization": "Bearer ${WEATHER_KEY}"},
        },
        "files": {"command": "npx", "args": ["-y", "server", "--token", "s3cret"]},
    }
}
VSCODE = {
    "inputs": [
        {"type": "promptString", "id": "key", "description": "The key", "password": True},
        {"type": "promptString", "id": "team", "password": False, "default": "blue"},
    ],
    "servers": {
        "weather": {
            "type": "sse",
            "url": "https://weather.example/events",
            "headers": {"X-Key": "${input:key}", "X-Team": "${input:team}", "X-E": "${env:E}"},
        }
    },
}
PUBLISHED = {
    "name": "io.example/Weather",
    "description": "Rain or shine.",
    "remotes": [
        {"type": "sse", "url": "https://weather.example/sse"},
        {
            "type": "streamable-http",
            "url": "https://{region}.weather.example/mcp",
            "variables": {"region": {"description": "Where", "default": "north"}},
            "headers": [
                {"name": "X-Key", "isRequired": True, "isSecret": True, "description": "Yours"},
                {"name": "X-Other"},
                {"name": "Authorization", "value": "Bearer {token}"},
            ],
        },
    ],
}


def knowing(**values: str) -> Answer:
    return lambda question: values.get(question.name)


def bodies(content: object, **values: str) -> list[dict[str, Any]]:
    found = [body_of(entry, knowing(**values)) for entry in described(content)]
    return [{k: v for k, v in body.items() if v is not None} for body in found]


def test_a_file_of_claude_is_read_with_its_variables_filled_in() -> None:
    weather, files = described(CLAUDE)

    body = body_of(weather, knowing(WEATHER_KEY="k"))

    assert {name: value for name, value in body.items() if value is not None} == {
        "serverName": "weather-service",
        "title": "Weather Service",
        "url": "https://weather.example/north/mcp",
        "type": "streamable-http",
        "headers": {"Authorization": "Bearer k"},
    }
    with pytest.raises(SkippedError, match=r"stdio.*bridge") as skipped:
        body_of(files, knowing())
    assert "s3cret" not in str(skipped.value)


def test_a_file_of_vs_code_asks_for_its_inputs() -> None:
    asked: list[Question] = []

    def answer(question: Question) -> str | None:
        asked.append(question)
        return {"key": "k", "E": "e"}.get(question.name)

    (entry,) = described({"mcp": VSCODE})
    body = body_of(entry, answer)

    assert body["headers"] == {"X-Key": "k", "X-Team": "blue", "X-E": "e"}
    assert body["type"] == "sse"
    assert asked == [
        Question("key", "input", "The key"),
        Question("team", "input", "", is_secret=False, default="blue"),
        Question("E", "env"),
    ]


@pytest.mark.parametrize(
    "content",
    [PUBLISHED, {"server": PUBLISHED, "_meta": {}}, {"data": {"servers": [PUBLISHED]}}],
)
def test_a_published_server_is_read_with_its_best_remote(content: dict[str, Any]) -> None:
    (body,) = bodies(content, **{"X-Key": "k", "token": "t"})

    assert body == {
        "serverName": "io.example-weather",
        "title": "io.example/Weather",
        "description": "Rain or shine.",
        "url": "https://north.weather.example/mcp",
        "type": "streamable-http",
        "headers": {"X-Key": "k", "Authorization": "Bearer t"},
    }


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"url": "https://a.example", "headers": {"A": "${MISSING}"}}, "needs MISSING: .*--set"),
        ({"url": "wss://a.example", "type": "ws"}, "transport 'ws'"),
        ({}, "neither a url nor a command"),
        ("text", "not a JSON object"),
    ],
)
def test_what_cannot_be_read_says_why(entry: object, told: str) -> None:
    (found,) = described({"mcpServers": {"a": entry}})

    with pytest.raises(FormError, match=told):
        body_of(found, knowing())


def test_what_is_disabled_is_left_out() -> None:
    (entry,) = described({"mcpServers": {"a": {"url": "https://a.example", "disabled": True}}})

    with pytest.raises(SkippedError, match="disabled"):
        body_of(entry, knowing())


@pytest.mark.parametrize(
    ("url", "kind"),
    [("https://a.example/sse", "sse"), ("https://a.example/mcp", "streamable-http")],
)
def test_a_url_without_a_type_says_what_it_is(url: str, kind: str) -> None:
    (body,) = bodies({"mcpServers": {"a": {"url": url}}})

    assert body["type"] == kind


def test_arrays_and_lists_are_read_entry_by_entry() -> None:
    listed = [{"serverName": "a", "url": "u"}, [{"server_name": "b", "proxy_pass_url": "p"}], 7]

    assert [entry.label for entry in described(listed)] == ["a", "b", "[2]"]
    assert [entry.form for entry in described(listed)] == ["", "", ""]


def test_no_depth_is_followed_for_ever() -> None:
    nested: Any = {"serverName": "a"}
    for _ in range(900):
        nested = [nested]

    assert len(list(described(json.loads(json.dumps(nested))))) == 1


def test_a_body_of_the_api_is_itself(tmp_path: Path) -> None:
    content = {"serverName": "weather", "url": "https://weather.example/mcp"}

    (entry,) = described(content)

    assert (entry.label, entry.form, entry.content) == ("", "", content)
