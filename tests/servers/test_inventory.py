"""What servers and tools in memory are searched by."""

from bson import ObjectId

from registry.access.policy import Grants
from registry.core.search import rank, words_of
from registry.servers.storage.inventory import listed_server, listed_tool, owner_words
from registry.servers.values import ServerRecord
from registry.tools.documents import tool_row

SERVER = ServerRecord.model_validate(
    {
        "_id": ObjectId(),
        "serverName": "Weather",
        "path": "/mcp/meteo",
        "author": ObjectId(),
        "scope": "shared_app",
        "config": {"title": "Forecasts", "tools": "get_wind, get_rain"},
    }
)


def found(text: str, query: str) -> bool:
    return rank(text, words_of(query)) is not None


def test_a_tool_is_found_by_its_server_and_by_its_name_at_the_combined_server() -> None:
    stored = {"_id": ObjectId(), "name": "get_wind", "definition": "{}", "title": "Weather now"}
    row = tool_row(stored, SERVER.id)
    assert row is not None

    text = listed_tool(row, owner_words(SERVER)).text

    assert [found(text, query) for query in ("weather wind", "meteo__get_wind", "get_rain")] == [
        True,
        True,
        False,
    ]
    # What is said of the tool itself comes before its server's name.
    assert rank(text, ("weather",)) == 2
    assert (rank(text, ("get_wind",)), rank(text, ("meteo",))) == (0, 5)


def test_a_server_is_found_by_the_tools_that_it_serves() -> None:
    server = listed_server(SERVER, Grants(), ())
    described = listed_server(SERVER, Grants(), (), ["get_snow"])

    assert [found(server.text, query) for query in ("rain", "meteo__get_wind", "snow")] == [
        True,
        True,
        False,
    ]
    assert server.served == 2
    assert [found(described.text, query) for query in ("rain", "snow forecasts")] == [False, True]
