"""Words in fields: what matches, and what comes first."""

from dataclasses import dataclass

import pytest

from registry.core.search import MAX_SEARCHED, best_first, folded, rank, searchable, words_of


@dataclass(frozen=True)
class Found:
    """Something to search for."""

    name: str
    text: str


def item(name: str, title: str = "", tags: tuple[str, ...] = (), description: str = "") -> Found:
    return Found(name, searchable([name], [title], tags, [description]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plain", "plain"),
        ("Café CRÈME", "cafe creme"),
        ("Straße", "strasse"),
        ("İstanbul", "istanbul"),
        ("\uff21\uff22", "ab"),
        ("ﬁle", "file"),
        ("Ω", "ω"),
        ("서버", folded("서버")),
    ],
)
def test_case_accents_and_width_make_no_difference(text: str, expected: str) -> None:
    assert folded(text) == expected


def test_all_words_must_occur_and_each_may_in_a_field_of_its_own() -> None:
    tool = item("create_issue", "New ticket", ("github",), "Opens it for Müller.")

    assert rank(tool.text, words_of("github issue")) is not None
    assert rank(tool.text, words_of("  MULLER   ticket ")) is not None
    assert rank(tool.text, words_of("github comment")) is None


def test_a_word_is_taken_literally_and_found_within_longer_ones() -> None:
    tool = item("wind.*_speed")

    assert rank(tool.text, words_of("wind.*")) is not None
    assert rank(tool.text, words_of("w.nd")) is None
    assert rank(tool.text, words_of("spee")) is not None


def test_no_word_is_found_across_two_fields() -> None:
    assert rank(item("ab", "cd").text, ("bcd",)) is None
    assert words_of("a\x1fb") == ("a", "b")


def test_the_weightier_field_comes_first_and_equals_keep_their_order() -> None:
    items = [
        item("a", description="weather"),
        item("b", tags=("weather",)),
        item("c", title="weather"),
        item("weather_now"),
        item("weather"),
        item("e", title="weather"),
        item("f", title="cloud"),
    ]

    found = best_first(items, words_of("weather"))

    assert [one.name for one in found] == ["weather", "weather_now", "c", "e", "b", "a"]


def test_each_word_counts_by_the_best_field_it_occurs_in() -> None:
    items = [
        item("x", description="github issue"),
        item("issue_list", description="of github, issue by issue"),
        item("github_issue"),
    ]

    found = best_first(items, words_of("github issue"))

    assert [one.name for one in found] == ["github_issue", "issue_list", "x"]


def test_a_query_without_words_leaves_everything_as_it_is() -> None:
    items = [item("a"), item("b")]

    assert best_first(items, words_of("  ")) == items
    assert words_of(None) == ()


def test_what_is_no_text_is_not_searched() -> None:
    assert searchable(["a"], [None, 3], [["b"]]) == "a\x1f\x1f"


def test_only_the_beginning_of_a_long_field_is_searched_and_held() -> None:
    found = item("a", description="x" * MAX_SEARCHED + " end")

    assert rank(found.text, words_of("end")) is None
    assert len(found.text) < MAX_SEARCHED + 10
