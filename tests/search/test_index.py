"""The index: applied in steps, always the same as one made at once, immutable to readers."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from registry.search.index import BATCH, BLOCK, MIN_LEFT_BEHIND, SearchIndex
from registry.search.ports import (
    Candidates,
    CatalogLink,
    DocumentKey,
    Kind,
    SearchDocument,
    Traits,
    Vector,
)
from registry.search.retrieval import mask_of, narrowed, retrieve
from registry.search.values import Filters, Hit
from tests.kit.waiting import others_ran

WORDS = ["mail", "send", "file", "weather", "search", "get", "list", "channel"]
QUERIES = ["send mail", "weather", "list_channel", "get file s3", "chanel", "nothing at all"]
EVERYTHING = Candidates(catalog=None)


def tool(server: int, number: int, *texts: str, **more: object) -> SearchDocument:
    name = "_".join([*texts[:2], str(number)])
    document = SearchDocument(
        DocumentKey(Kind.TOOL, f"{server:04}{number:020}"),
        name,
        None,
        " ".join(texts),
        f"s{server}",
        f"s{server}",
        f"server{server}",
    )
    return replace(document, **more)  # type: ignore[arg-type] # what a test is about


def key(server: int, number: int) -> DocumentKey:
    return tool(server, number).key


def unit(*numbers: float) -> Vector:
    vector = np.array(numbers, dtype=np.float32)
    return vector / np.float32(np.linalg.norm(vector))


async def resting() -> None:
    """Make no pause."""


def all_of(index: SearchIndex) -> Candidates:
    tools = {server_id: tuple(one.rows) for server_id, one in index.version.tools.items()}
    servers = index.version.others.get(Kind.SERVER, {})
    return Candidates(tools, tuple(servers), None)


def found(
    index: SearchIndex, query: str, vector: Vector | None = None, filters: Filters | None = None
) -> list[Hit]:
    version = index.version
    mask = narrowed(version, mask_of(version, all_of(index)), filters or Filters())
    return retrieve(version, query, mask, vector, 10)


def names(hits: Iterable[Hit]) -> list[str]:
    return [hit.document.name for hit in hits]


async def indexed(documents: Iterable[SearchDocument]) -> SearchIndex:
    index = SearchIndex(resting)
    await index.apply(documents)
    return index


def drawn(chance: random.Random) -> SearchDocument:
    return tool(chance.randrange(4), chance.randrange(12), *chance.sample(WORDS, 4))


def vector_of(document: SearchDocument) -> Vector:
    # Not of the words, so that the order is another than theirs.
    chance = random.Random(f"{document.key.id} {document.name}")  # noqa: S311 - test data
    return unit(*(chance.uniform(-1, 1) for _ in range(4)))


@pytest.mark.parametrize("seed", range(20))
async def test_after_any_changes_it_answers_as_one_made_at_once(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - test data
    index, left = SearchIndex(resting), dict[DocumentKey, SearchDocument]()
    for _ in range(12):
        put = {one.key: one for one in (drawn(chance) for _ in range(chance.randrange(6)))}
        gone = [one for one in left if one not in put and chance.random() < 0.2]

        await index.apply(put.values(), gone)
        left |= put
        for one in gone:
            del left[one]
        index.put_vectors({one: vector_of(left[one]) for one in left}, model="m")

    at_once = await indexed(left.values())
    at_once.put_vectors({one: vector_of(left[one]) for one in left}, model="m")
    assert set(index.documents()) == set(left.values())
    for query in QUERIES:
        for vector in (None, unit(1, 2, 3, 4)):
            assert found(index, query, vector) == found(at_once, query, vector)


async def test_readers_keep_the_version_that_they_took() -> None:
    index = await indexed([tool(1, 1, "send", "mail"), tool(1, 2, "get", "file")])
    index.put_vectors({key(1, 1): unit(1, 0), key(1, 2): unit(0, 1)}, model="m")
    version = index.version
    mask = mask_of(version, all_of(index))
    before = retrieve(version, "mail", mask, unit(1, 0), 5)

    await index.apply([tool(1, 1, "send", "weather")], [key(1, 2)])
    index.put_vectors({key(1, 1): unit(0, 1)}, model="m")

    assert retrieve(version, "mail", mask, unit(1, 0), 5) == before
    assert names(found(index, "mail")) == []


async def test_rows_are_numbered_again_when_many_were_left_behind() -> None:
    index = await indexed([tool(1, number, "send", "mail") for number in range(10)])
    index.put_vectors({key(1, number): unit(1, number) for number in range(10)}, model="m")
    for turn in range(MIN_LEFT_BEHIND // 10 + 1):
        await index.apply([tool(1, number, "get", f"w{turn}") for number in range(10)])

    assert len(index.version.documents) == 10
    assert index.missing_vectors() == []
    hit = found(index, "get", unit(1, 3))[0]
    assert hit.document.key == key(1, 3)
    assert hit.explanation.cosine == pytest.approx(1, abs=1e-5)
    assert index.version.lexicon.postings.keys() >= {"get"}
    assert "mail" not in index.version.lexicon.postings


async def test_many_documents_are_found_before_the_last_is_indexed() -> None:
    sizes: set[int] = set()
    pauses = 0

    async def rest() -> None:
        nonlocal pauses
        pauses += 1
        sizes.add(index.version.size)

    index = SearchIndex(rest)

    await index.apply([tool(1, number, "send", "mail") for number in range(BATCH + 100)])

    assert sizes == {0, BATCH}
    assert pauses > BATCH / 50


async def test_unchanged_documents_make_no_new_version() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    version = index.version

    await index.apply([tool(1, 1, "send", "mail")], [key(9, 9)])

    assert index.version is version


async def test_a_server_that_is_renamed_is_found_by_its_new_name() -> None:
    index = await indexed([tool(1, 1, "send", "mail", context="Inbox")])

    await index.apply([tool(1, 1, "send", "mail", context="Postbox")])

    assert names(found(index, "postbox")) == ["send_mail_1"]
    assert names(found(index, "inbox")) == []


async def test_other_traits_keep_the_row_and_its_words() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    lexicon = index.version.lexicon

    await index.apply([tool(1, 1, "send", "mail", traits=Traits(status="error"))])

    assert index.version.lexicon is lexicon
    assert names(found(index, "mail", filters=Filters(status="error"))) == ["send_mail_1"]
    assert names(found(index, "mail", filters=Filters(status="active"))) == []


async def test_they_follow_a_document_whose_text_changes_until_there_are_others() -> None:
    index = await indexed([tool(1, 1, "send", "mail"), tool(1, 2, "get", "file")])
    index.put_vectors({key(1, 1): unit(1, 0), key(1, 2): unit(0, 1)}, model="m")

    await index.apply([tool(1, 1, "read", "news")])

    assert index.missing_vectors() == []
    assert names(found(index, "zzz", unit(1, 0.1))) == ["read_news_1"]


async def test_a_dropped_document_leaves_none_to_another() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    index.put_vectors({key(1, 1): unit(1, 0)}, model="m")

    await index.apply([], [key(1, 1)])
    await index.apply([tool(1, 1, "send", "mail")])

    assert index.missing_vectors() == [key(1, 1)]


async def test_those_put_during_a_step_are_kept() -> None:
    async def rest() -> None:
        index.put_vectors({key(1, 1): unit(0, 1)}, model="m")

    index = SearchIndex(resting)
    await index.apply([tool(1, 1, "send", "mail")])
    index._rest = rest

    await index.apply([tool(2, number, "send", "mail") for number in range(50)])

    assert key(1, 1) not in index.missing_vectors()


async def test_those_of_another_model_replace_all() -> None:
    index = await indexed([tool(1, 1, "send", "mail"), tool(1, 2, "get", "file")])
    index.put_vectors({key(1, 1): unit(1, 0), key(1, 2): unit(0, 1)}, model="m")

    index.put_vectors({key(1, 1): unit(1, 0, 0)}, model="other")

    assert index.missing_vectors() == [key(1, 2)]
    assert index.version.vectors.model == "other"


async def test_a_query_of_another_model_is_searched_by_words() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    index.put_vectors({key(1, 1): unit(1, 0)}, model="m")

    hit = found(index, "mail", unit(1, 0, 0))[0]

    assert hit.explanation.cosine is None


async def test_they_are_dropped() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    index.put_vectors({key(1, 1): unit(1, 0)}, model="m")

    index.drop_vectors([key(1, 1), key(9, 9)])

    assert index.missing_vectors() == [key(1, 1)]
    assert found(index, "mail", unit(1, 0))[0].explanation.cosine is None


async def test_rows_of_several_blocks_are_compared() -> None:
    index = await indexed([tool(1, number, "send", "mail") for number in range(BLOCK + 5)])
    last = key(1, BLOCK + 4)
    vectors = dict.fromkeys(index._rows, unit(1, 0)) | {last: unit(0, 1)}

    index.put_vectors(vectors, model="m")

    assert found(index, "mail", unit(0.1, 1))[0].document.key == last


async def test_it_waits_for_the_next_change() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    first = await index.changed(0)
    waiting = asyncio.ensure_future(index.changed(first.version))
    await others_ran()
    assert not waiting.done()

    await index.apply([tool(1, 2, "get", "file")], [key(1, 1)])

    later = await waiting
    assert (set(first.put), set(later.put), set(later.gone)) == (
        {key(1, 1)},
        {key(1, 2)},
        {key(1, 1)},
    )


async def test_several_steps_are_reported_together() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    seen = index.version.number
    await index.apply([tool(1, 2, "get", "file")])
    await index.apply([tool(1, 3, "get", "file")], [key(1, 2)])

    later = await index.changed(seen)

    assert (set(later.put), set(later.gone)) == ({key(1, 3)}, {key(1, 2)})


async def test_after_too_many_steps_everything_is_reported() -> None:
    index = await indexed([tool(1, 1, "send", "mail")])
    seen = index.version.number
    for number in range(300):
        await index.apply([tool(1, 2, "get", str(number))])

    later = await index.changed(seen)

    assert set(later.put) == {key(1, 1), key(1, 2)}


async def test_only_candidates_are_found() -> None:
    index = await indexed(
        [
            tool(1, 1, "send", "mail"),
            tool(1, 2, "get", "mail"),
            tool(2, 1, "read", "mail"),
            server(3),
            entry("e1"),
            entry("e2"),
        ]
    )
    version = index.version
    candidates = Candidates({"s1": ["get_mail_2", "gone"], "s9": ["x"]}, ["s3"], ["e2"])

    mask = mask_of(version, candidates)

    assert {hit.document.key.id for hit in retrieve(version, "mail", mask, None, 9)} == {
        key(1, 2).id,
        "s3",
        "e2",
    }


async def test_the_mapping_that_tools_are_served_from_stands_for_all_of_them() -> None:
    served = {"send_mail_1": 1, "get_mail_2": 2}
    index = SearchIndex(resting)
    documents = [tool(1, 1, "send", "mail"), tool(1, 2, "get", "mail")]
    await index.apply(documents, served={"s1": served})
    await index.apply([], [key(1, 2)], served={"s1": served})
    version = index.version

    mask = mask_of(version, Candidates({"s1": served}))

    assert names(retrieve(version, "mail", mask, None, 9)) == ["send_mail_1"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(kinds=frozenset({Kind.SERVER})), ["mail3"]),
        (Filters(server="s1"), ["send_mail_1"]),
        (Filters(server="SERVER1"), []),
        (Filters(server="Srv1"), ["send_mail_1"]),
        (Filters(server="mail3"), ["mail3"]),
        (Filters(tags=("Post",)), ["send_mail_1"]),
        (Filters(tags=("post", "other")), []),
        (Filters(read_only=True), ["send_mail_1"]),
        (Filters(source_type="openapi"), ["mail3"]),
        (Filters(catalog="e1"), ["send_mail_1", "mail e1"]),
        (Filters(catalog="Mail E1"), ["send_mail_1", "mail e1"]),
        (Filters(status="active"), ["send_mail_1", "mail3", "mail e1"]),
        (Filters(status="error", read_only=True), []),
    ],
)
async def test_filters_narrow_them(filters: Filters, expected: Sequence[str]) -> None:
    link = CatalogLink("e1", "mail e1")
    traits = Traits("active", "mcp", True, link)
    index = await indexed(
        [
            tool(1, 1, "send", "mail", tags=("post",), traits=traits, server_name="srv1"),
            tool(2, 1, "get", "mail", traits=Traits("error", "mcp", False), server_name="b"),
            server(3),
            entry("e1", Traits("active", catalog=link)),
        ]
    )

    hits = found(index, "mail", filters=filters)

    assert sorted(names(hits)) == sorted(expected)


def server(number: int) -> SearchDocument:
    return SearchDocument(
        DocumentKey(Kind.SERVER, f"s{number}"),
        f"mail{number}",
        "Mail",
        server_id=f"s{number}",
        traits=Traits("active", "openapi"),
    )


def entry(entry_id: str, traits: Traits | None = None) -> SearchDocument:
    return SearchDocument(
        DocumentKey(Kind.CATALOG, entry_id), f"mail {entry_id}", traits=traits or Traits("gone")
    )


@pytest.mark.parametrize("query", ["get_mail_2", "Get mail 2", "getMail2", "S1 get mail 2"])
async def test_what_bears_the_name_comes_first(query: str) -> None:
    others = [tool(1, number, "get", "mail", "get", "mail", "2") for number in range(3, 30)]
    index = await indexed([*others, tool(1, 2, "get", "mail", "long " * 50)])

    hit = found(index, query)[0]

    assert (hit.document.name, hit.explanation.is_exact) == ("get_mail_2", True)
    assert hit.score > 1


async def test_equal_scores_are_ordered_alike_whatever_order_they_came_in() -> None:
    documents = [tool(1, number, "send", "mail") for number in range(30)]
    documents = [replace(one, name="send_mail") for one in documents]
    first = SearchIndex(resting)
    second = SearchIndex(resting)
    await first.apply([replace(one, server_id=f"s{n}") for n, one in enumerate(documents)])
    for n, one in reversed(list(enumerate(documents))):
        await second.apply([replace(one, server_id=f"s{n}")])

    assert found(first, "send a mail") == found(second, "send a mail")


@pytest.mark.parametrize(
    "query", ["", "   ", "\ud800\x00", "!!!", "\U0001f600", "的", "x" * 9_999, "mail " * 2_000]
)
@pytest.mark.parametrize("vector", [None, unit(1, 0)])
async def test_odd_queries_are_answered(query: str, vector: Vector | None) -> None:
    index = await indexed([tool(1, 1, "send", "mail"), tool(1, 2, "发送", "消息")])
    index.put_vectors({key(1, 1): unit(1, 0), key(1, 2): unit(0, 1)}, model="m")

    assert len(found(index, query, vector)) <= 2


async def test_chinese_is_found_by_its_characters() -> None:
    index = await indexed([tool(1, 1, "发送消息", "x"), tool(1, 2, "天气预报", "y")])

    assert names(found(index, "天气"))[0] == "天气预报_y_2"


async def test_keywords_are_looked_up_in_place_of_the_description() -> None:
    index = await indexed([tool(1, 1, "send", "mail"), tool(1, 2, "get", "weather")])
    version = index.version
    mask = mask_of(version, all_of(index))

    hits = retrieve(version, "send something", mask, None, 5, keywords="weather")
    unworded = retrieve(version, "send something", mask, None, 5, keywords="the !")

    assert names(hits) == ["get_weather_2"]
    assert names(unworded) == ["send_mail_1"]


async def test_an_explanation_tells_both_parts() -> None:
    index = await indexed([tool(1, 1, "send", "mail"), tool(1, 2, "get", "file")])
    index.put_vectors({key(1, 1): unit(1, 0), key(1, 2): unit(0, 1)}, model="m")

    why = found(index, "mails of today", unit(1, 0))[0].explanation

    assert (why.words, why.cosine, why.fused, why.is_exact) == (("mail",), 1.0, 1.0, False)
    assert why.bm25 > 0


def test_an_empty_index_answers() -> None:
    assert found(SearchIndex(resting), "mail", unit(1, 0)) == []
