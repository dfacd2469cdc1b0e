"""Words of names, descriptions and queries."""

import pytest

from registry.search.text import MAX_TEXT_CHARACTERS, MAX_WORD_CHARACTERS, name_form, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("send_message", ["send", "messag"]),
        ("sendMessage", ["send", "messag"]),
        ("send-messages.v2", ["send", "messag", "v", "2"]),
        ("HTTPServer", ["http", "server"]),
        ("the weather of a city", ["weather", "citi"]),
        ("Café Zürich", ["cafe", "zurich"]),
        ("\uff33\uff45\uff4e\uff44", ["send"]),
        ("user's files", ["user", "file"]),
        ("使用必应搜索 web", ["使", "用", "必", "应", "搜", "索", "web"]),
        ("한국어", ["한", "국", "어"]),
        ("сообщения", ["сообщения"]),
        ("\ud800 \x00 \u202e send", ["send"]),
        ("!?… \U0001f600", []),
        ("", []),
    ],
)
def test_words_are_split_folded_and_stemmed(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_common_words_are_kept_where_whole_names_are_compared() -> None:
    assert name_form("listOfUsers") == name_form("List of users") == "list of user"


def test_long_texts_and_words_are_bounded() -> None:
    assert words("x" * 10 * MAX_TEXT_CHARACTERS) == ["x" * MAX_WORD_CHARACTERS]
    assert len(words("mail " * MAX_TEXT_CHARACTERS)) <= MAX_TEXT_CHARACTERS / 5 + 1
