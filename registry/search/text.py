"""Words of names, descriptions and queries. Pure.

Names are split at underscores, hyphens, dots, digits and changes of case; case, accents and width
are folded; English endings are cut by the Snowball stemmer; the commonest words are left out.
Chinese, Japanese and Korean are searched by single characters, as they are written without spaces.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from registry.core.search import folded

MAX_WORD_CHARACTERS = 64
"""Longer words are cut: they are hashes and addresses, not language."""

MAX_TEXT_CHARACTERS = 4096
"""How much of a text is searched; all of its words are held in memory."""

REMEMBERED_STEMS = 50_000
"""Stemming takes 30 us for a word; the vocabulary of tools is small."""

_COMMON = """
a an and any are as at be by can do for from has have how i if in into is it its me my of on or our
please so some that the their then there these they this those to us was we what when where which
who will with would you your
"""

STOP_WORDS = frozenset(_COMMON.split())
"""Words that say nothing about what a tool does."""

_CJK = (
    "\u1100-\u11ff\u3040-\u30ff\u3100-\u312f\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_CJK}]|\d+|[^\W\d_{_CJK}]+(?:'[^\W\d_{_CJK}]+)?")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(text: str, *, keep_common: bool = False) -> list[str]:
    """Return the words of a text as they are indexed, in their order and with repetitions.

    Args:
        text: A name, a description or a query; only its beginning is read.
        keep_common: Whether to return words that say nothing, too.
    """
    split = folded(_CAMEL.sub(" ", text[:MAX_TEXT_CHARACTERS]))
    if not split.isascii():
        # Folding takes Korean syllables apart.
        split = unicodedata.normalize("NFC", split)
    stem = _stem
    return [
        stem(word[:MAX_WORD_CHARACTERS])
        for word in _WORD.findall(split)
        if keep_common or word not in STOP_WORDS
    ]


def name_form(text: str) -> str:
    """Return the form in which a query and a name are compared as a whole.

    `send_message`, `sendMessage` and "Send message" have the same.
    """
    return " ".join(words(text, keep_common=True))


@lru_cache(maxsize=1)
def _stemmer() -> Callable[[str], str]:
    # Loaded on first use: a process without search needs none.
    import snowballstemmer  # noqa: PLC0415 - see above

    stem: Callable[[str], str] = snowballstemmer.stemmer("english").stemWord
    return stem


@lru_cache(maxsize=REMEMBERED_STEMS)
def _stem(word: str) -> str:
    if not word.isascii() or word[0].isdigit():
        return word
    return _stemmer()(word.removesuffix("'s"))
