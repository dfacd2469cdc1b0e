"""Ranking: BM25 over weighted fields, fused with the cosine of vectors. Pure.

Everything counts the candidates of one caller alone: how many there are, how many of them contain
a word, how long they are. So an answer is the same as if nothing else were indexed, and its scores
say nothing about what the caller may not see. See docs/decisions/0074-scores-of-one-caller.md.

Rows are numbers of documents in one version of the index; `registry.search.index` knows whose.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from registry.search.ports import Explanation, SearchDocument
from registry.search.text import name_form, words

Rows: TypeAlias = NDArray[np.int32]
Scores: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

MAX_QUERY_CHARACTERS = 10_000
"""Longer queries are refused."""

MAX_QUERY_WORDS = 64
"""Distinct words of a query that are looked up: the first ones."""

K1, B = 1.2, 0.75
"""The usual parameters of BM25: how soon repetition stops to count, and how much length does."""

NAME_WEIGHT, CONTEXT_WEIGHT = 3, 2
"""A word of the name counts as often as this in the description, one of the server twice."""

VECTOR_SHARE = 0.5
"""Share of the vectors in the fused score. Between .3 and .7 the results are alike."""

MAX_ALTERNATIVES = 8
"""How many indexed words stand for a word that no candidate contains."""

MIN_TYPO_CHARACTERS = 4
MIN_PREFIX_CHARACTERS = 3

ALTERNATIVE_WEIGHT = 0.6
"""What a similar word counts, against the word itself."""

EXACT_BONUS = 1.0
"""More than any other score: what bears the name asked for comes first."""

SCORE_DIGITS = 5
"""Replicas add the same numbers in different order; beyond these digits the result may differ."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Postings(NamedTuple):
    """The documents that contain a word.

    Attributes:
        rows: In ascending order.
        counts: How often each contains it, weighted by field.
    """

    rows: Rows
    counts: Scores


def weighted_words(document: SearchDocument) -> Counter[str]:
    """Return how often a document contains each word, weighted by field."""
    found: Counter[str] = Counter()
    name = words(document.name)
    for word in name:
        found[word] += NAME_WEIGHT
    for word in words(document.context):
        found[word] += CONTEXT_WEIGHT
    if document.title:
        # A title usually repeats the name, which must not count twice.
        for word in set(words(document.title)).difference(name):
            found[word] += 1
    found.update(words(document.description or ""))
    found.update({word for tag in document.tags for word in words(tag)})
    found.update({word for tool in document.tools for word in words(tool)})
    return found


def exact_forms(document: SearchDocument) -> set[str]:
    """Return the queries that are the document's name, in the form of `name_form`."""
    forms = {name_form(document.name)}
    if document.title:
        forms.add(name_form(document.title))
    if document.context:
        forms.add(f"{name_form(document.context)} {name_form(document.name)}")
    return forms - {""}


class Lexicon:
    """The words of all documents in one version of the index. Never modified.

    Args:
        postings: By word.
        lengths: Of each row, the weighted number of words.
    """

    def __init__(self, postings: Mapping[str, Postings], lengths: Scores) -> None:
        self.postings = postings
        self.lengths = lengths

    @cached_property
    def vocabulary(self) -> list[str]:
        """Return all words in order."""
        return sorted(self.postings)


@dataclass(frozen=True, slots=True)
class Term:
    """A word of a query, and the candidates that contain it or what stands for it.

    Attributes:
        words: As they are indexed.
        counts: How often each row contains them, weighted by field and likeness.
    """

    words: tuple[str, ...]
    rows: Rows
    counts: Scores


def query_words(query: str) -> list[str]:
    """Return the distinct words of a query, as many as are looked up."""
    return list(dict.fromkeys(words(query)))[:MAX_QUERY_WORDS]


def looked_up(wanted: Iterable[str], lexicon: Lexicon, mask: Mask) -> list[Term]:
    """Return the candidates for each word of a query.

    A word that no candidate contains is looked up as the beginning of others, and then as a
    misspelling of others.

    Args:
        wanted: Distinct words of the query.
        lexicon: All words.
        mask: The candidates' rows.
    """
    found: list[Term] = []
    for word in wanted:
        term = _visible(word, lexicon, mask)
        if term is None:
            term = _similar(_beginning(word, lexicon), lexicon, mask) or _similar(
                sorted(_edits(word)), lexicon, mask
            )
        if term is not None:
            found.append(term)
    return found


def _visible(word: str, lexicon: Lexicon, mask: Mask) -> Term | None:
    postings = lexicon.postings.get(word)
    if postings is None:
        return None
    seen = mask[postings.rows]
    rows, counts = postings.rows[seen], postings.counts[seen]
    return Term((word,), rows, counts) if len(rows) else None


def _similar(others: Iterable[str], lexicon: Lexicon, mask: Mask) -> Term | None:
    found: list[Term] = []
    for word in others:
        term = _visible(word, lexicon, mask)
        if term is not None:
            found.append(term)
            if len(found) == MAX_ALTERNATIVES:
                break
    if not found:
        return None
    rows, at = np.unique(np.concatenate([term.rows for term in found]), return_inverse=True)
    counts = np.zeros(len(rows), dtype=np.float32)
    np.maximum.at(counts, at, np.concatenate([term.counts for term in found]))
    spelled = tuple(word for term in found for word in term.words)
    return Term(spelled, rows, counts * np.float32(ALTERNATIVE_WEIGHT))


def _beginning(word: str, lexicon: Lexicon) -> Iterator[str]:
    if len(word) < MIN_PREFIX_CHARACTERS:
        return
    vocabulary = lexicon.vocabulary
    for at in range(bisect_left(vocabulary, word), len(vocabulary)):
        if not vocabulary[at].startswith(word):
            return
        yield vocabulary[at]


def _edits(word: str) -> set[str]:
    """Return all texts that one added, dropped, changed or exchanged letter makes of a word."""
    if len(word) < MIN_TYPO_CHARACTERS or not word.isascii() or not word.isalpha():
        return set()
    if word.endswith("y"):
        # The stem of "repository" ends in i, and that of "repositroy" does not.
        return _edits(f"{word[:-1]}i") | {f"{word[:-1]}i"}
    halves = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    return {
        *(left + right[1:] for left, right in halves if right),
        *(left + right[1] + right[0] + right[2:] for left, right in halves if len(right) > 1),
        *(left + letter + right[1:] for left, right in halves if right for letter in _LETTERS),
        *(left + letter + right for left, right in halves for letter in _LETTERS),
    }


def bm25(terms: Sequence[Term], lexicon: Lexicon, mask: Mask) -> Scores:
    """Return the score by words of each row; 0 for those without any of them.

    Args:
        terms: From `looked_up` with the same mask.
        lexicon: All words.
        mask: The candidates' rows; statistics are theirs.
    """
    scores = np.zeros(len(mask), dtype=np.float32)
    number = int(np.count_nonzero(mask))
    if not terms or not number:
        return scores
    # Lengths are whole numbers, so their sum is the same in any order.
    average = float(lexicon.lengths[mask].sum(dtype=np.float64)) / number
    for term in terms:
        matching = len(term.rows)
        rarity = np.log1p((number - matching + 0.5) / (matching + 0.5))
        norm = K1 * (1 - B + B / average * lexicon.lengths[term.rows])
        scores[term.rows] += term.counts / (term.counts + norm) * np.float32(rarity * (K1 + 1))
    return scores


def fused(by_words: Scores, cosines: Scores | None, mask: Mask, has_vector: Mask) -> Scores:
    """Return both scores of the candidates in one number from 0 to 1; 0 for all other rows.

    Each is stretched to the whole range from 0 to 1 over the candidates, and then they are added.
    The score of a row without a vector is that by words.

    Args:
        by_words: Of each row.
        cosines: Of each row; None if the query has no vector.
        mask: The candidates' rows.
        has_vector: The rows whose cosine is one.
    """
    result = np.zeros(len(mask), dtype=np.float32)
    most = by_words.max(initial=0.0, where=mask)
    if most > 0:
        np.divide(by_words, most, out=result, where=mask)
    if cosines is None:
        return result
    known = mask & has_vector
    least = cosines.min(initial=2.0, where=known)
    span = cosines.max(initial=-2.0, where=known) - least
    if span <= 0:
        return result
    share = np.float32(VECTOR_SHARE)
    stretched = (cosines - least) / span
    np.add(result * (1 - share), stretched * share, out=result, where=known)
    return result


def best(scores: Scores, limit: int) -> Rows:
    """Return the rows that are among the best *limit*, ties at the end included, unordered.

    Rows with a score of 0 are never among them.
    """
    found = np.flatnonzero(scores > 0)
    if len(found) > limit:
        among = scores[found]
        least = np.partition(among, len(among) - limit)[len(among) - limit]
        # Ties are broken by the caller, who knows what the rows are, and so alike everywhere.
        found = found[among >= least - np.float32(10**-SCORE_DIGITS)]
    return found.astype(np.int32)


def explained(
    row: int,
    terms: Sequence[Term],
    by_words: Scores,
    cosine: float | None,
    score: float,
    *,
    is_exact: bool,
) -> Explanation:
    """Return how the score of one row came about."""
    return Explanation(
        words=tuple(word for term in terms if _contains(term, row) for word in term.words),
        bm25=round(float(by_words[row]), SCORE_DIGITS),
        cosine=None if cosine is None else round(cosine, SCORE_DIGITS),
        is_exact=is_exact,
        fused=score,
    )


def _contains(term: Term, row: int) -> bool:
    at = int(np.searchsorted(term.rows, row))
    return at < len(term.rows) and int(term.rows[at]) == row
