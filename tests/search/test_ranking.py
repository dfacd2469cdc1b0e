"""BM25 over weighted fields, fused with cosines."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.search.ports import DocumentKey, Kind, SearchDocument
from registry.search.ranking import (
    MAX_QUERY_WORDS,
    Lexicon,
    Mask,
    Postings,
    Scores,
    best,
    bm25,
    exact_forms,
    explained,
    fused,
    looked_up,
    query_words,
    weighted_words,
)
from registry.search.text import name_form

WORDS = ["mail", "send", "file", "weather", "search", "get"]


def tool(name: str, description: str = "", context: str = "") -> SearchDocument:
    return SearchDocument(DocumentKey(Kind.TOOL, name), name, None, description, context)


def lexicon(documents: Iterable[SearchDocument]) -> Lexicon:
    found: dict[str, list[tuple[int, int]]] = {}
    lengths: list[int] = []
    for row, document in enumerate(documents):
        counts = weighted_words(document)
        lengths.append(counts.total())
        for word, count in counts.items():
            found.setdefault(word, []).append((row, count))
    return Lexicon(
        {
            word: Postings(
                np.array([row for row, _ in pairs], dtype=np.int32),
                np.array([count for _, count in pairs], dtype=np.float32),
            )
            for word, pairs in found.items()
        },
        np.array(lengths, dtype=np.float32),
    )


def scored(query: str, documents: Sequence[SearchDocument], mask: Mask | None = None) -> Scores:
    known = lexicon(documents)
    rows = np.ones(len(documents), dtype=bool) if mask is None else mask
    return bm25(looked_up(query_words(query), known, rows), known, rows)


def names(query: str, documents: Sequence[SearchDocument]) -> list[str]:
    scores = scored(query, documents)
    rows = sorted(best(scores, len(documents)), key=lambda row: -scores[row])
    return [documents[row].name for row in rows]


def test_a_word_in_the_name_counts_more_than_in_the_server_and_there_more_than_in_the_text() -> (
    None
):
    documents = [
        tool("first", "something about mail here"),
        tool("second_one_more", "something here", "mail"),
        tool("mail_something", "one here", "third"),
    ]

    assert names("mail", documents) == ["mail_something", "second_one_more", "first"]


def test_a_rare_word_counts_more_than_a_common_one() -> None:
    documents = [tool("get_file"), tool("get_mail"), tool("get_weather"), tool("list_weather")]

    assert names("get mail", documents)[0] == "get_mail"


def test_what_contains_no_word_is_not_found() -> None:
    assert names("mail", [tool("weather"), tool("mail")]) == ["mail"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("chann", "list_channels"),
        ("chanels", "list_channels"),
        ("repositroy", "create_repository"),
        ("weathet", "weather"),
    ],
)
def test_beginnings_and_misspelt_words_are_found(query: str, expected: str) -> None:
    documents = [tool("list_channels"), tool("create_repository"), tool("weather")]

    assert names(query, documents) == [expected]


def test_a_word_that_exists_is_not_taken_for_a_misspelling() -> None:
    assert names("mail", [tool("mail"), tool("main")]) == ["mail"]


def test_a_word_counts_more_than_what_resembles_it() -> None:
    documents = [tool("weather_one"), tool("weather_two"), tool("mails")]

    assert scored("weather", documents)[0] > scored("weathet", documents)[0] > 0


def test_short_and_foreign_words_are_not_guessed() -> None:
    assert names("qe 龘", [tool("qa"), tool("get")]) == []


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("_".join),
            st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join),
            st.sampled_from(WORDS),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.sampled_from([*WORDS, "mial", "weath", "nothing"]), max_size=4).map(" ".join),
)
def test_scores_do_not_depend_on_what_the_caller_may_not_see(
    drawn: list[tuple[str, str, str, bool]], query: str
) -> None:
    documents = [tool(name, text, context) for name, text, context, _ in drawn]
    mask = np.array([is_seen for *_, is_seen in drawn])
    seen = [document for document, is_seen in zip(documents, mask, strict=True) if is_seen]

    masked = scored(query, documents, mask)

    assert masked[mask] == pytest.approx(scored(query, seen), rel=1e-5)
    assert not masked[~mask].any()


def test_fusion_adds_both_scores_stretched_over_the_candidates() -> None:
    by_words = np.array([4, 2, 0, 9], dtype=np.float32)
    cosines = np.array([0.2, 0.6, 0.4, 0.9], dtype=np.float32)
    mask = np.array([True, True, True, False])

    scores = fused(by_words, cosines, mask, np.ones(4, dtype=bool))

    assert scores == pytest.approx([0.5, 0.75, 0.25, 0.0])


def test_a_document_without_a_vector_is_ranked_by_words() -> None:
    by_words = np.array([4, 2, 1], dtype=np.float32)
    cosines = np.array([0.2, 0.6, 9.0], dtype=np.float32)
    mask = np.ones(3, dtype=bool)

    scores = fused(by_words, cosines, mask, np.array([True, True, False]))

    assert scores == pytest.approx([0.5, 0.75, 0.25])


@pytest.mark.parametrize("cosines", [None, np.full(2, 0.3, dtype=np.float32)])
def test_vectors_that_tell_nothing_apart_leave_the_score_by_words(cosines: Scores | None) -> None:
    mask = np.ones(2, dtype=bool)

    scores = fused(np.array([4, 2], dtype=np.float32), cosines, mask, mask)

    assert scores == pytest.approx([1.0, 0.5])


def test_no_candidates_have_no_scores() -> None:
    mask = np.zeros(1, dtype=bool)

    assert scored("mail", [tool("mail")], mask) == [0]
    assert fused(np.ones(1, dtype=np.float32), np.ones(1, dtype=np.float32), mask, mask) == [0]


def test_the_best_include_all_ties_of_the_last() -> None:
    scores = np.array([0.5, 0.0, 0.9, 0.5, 0.1], dtype=np.float32)

    assert sorted(best(scores, 2)) == [0, 2, 3]
    assert sorted(best(scores, 9)) == [0, 2, 3, 4]


def test_names_are_asked_for_in_any_spelling() -> None:
    document = SearchDocument(
        DocumentKey(Kind.TOOL, "1"), "sendMessage", "Send a message", None, "Slack"
    )

    asked = {name_form(query) for query in ("Send_message", "slack send message")}

    assert asked <= exact_forms(document)
    assert name_form("send messages to slack") not in exact_forms(document)


def test_few_words_of_a_long_query_are_looked_up() -> None:
    assert len(query_words(" ".join(f"{number}x" for number in range(500)))) == MAX_QUERY_WORDS


def test_an_explanation_names_the_words_and_the_parts() -> None:
    documents = [tool("send_mail"), tool("get_mail")]
    known = lexicon(documents)
    mask = np.ones(2, dtype=bool)
    terms = looked_up(query_words("send mails chart"), known, mask)
    scores = bm25(terms, known, mask)

    why = explained(1, terms, scores, 0.25, 0.75, is_exact=False)

    assert (why.words, why.cosine, why.fused, why.is_exact) == (("mail",), 0.25, 0.75, False)
    assert why.bm25 == pytest.approx(float(scores[1]), abs=1e-5)
