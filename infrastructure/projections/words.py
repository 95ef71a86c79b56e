"""The words of a text as numbers, by which an index finds the texts that may hold what is looked for.

PostgreSQL's own reading of a text is dear (15 µs a message were measured; this takes 3) and says in the end
what is found and what is not. The numbers only say which texts are worth being read: every text that holds
the words has their numbers, and the few that have the numbers by chance are sorted out by the reading.

Two words of five in an English text are a few words that say nothing. A text with many of them has one number
for them all, which makes its index a third smaller; a text of another language keeps what it has of them.
"""

import re
from collections.abc import Collection
from struct import Struct
from typing import Final
from zlib import crc32

from infrastructure.projections.copying import array_text

SEARCHED: Final = 50_000  # characters of a text: a tsvector holds a megabyte, and a text may be as large
_KEPT: Final = 100_000  # words whose numbers are remembered
_FEW: Final = 200  # of which the repeated ones cost less than what it takes to find them
_ELEMENT: Final = Struct("!ii").pack
_SIZE: Final = 8  # bytes of an element

# What each byte of an ASCII text becomes: a capital a small letter, what is no letter and no digit a space.
_ASCII: Final = bytes(ord(chr(code).lower()) if chr(code).isalnum() else 32 for code in range(128)) + bytes(
    128
)
_RUN: Final = re.compile(r"[^\W_]+")
# Numbers to Python and breaks to PostgreSQL, as in m².
_ODD: Final = re.compile(r"(?![0-9])\d|[²³¹¼-¾⁰-₟⅐-↋①-⓿❶-➓㆒-㆟㈠-㋿㍘-㏿]")


class _Numbers(dict[bytes, bytes]):
    """The number of a word, the same in every process: it is stored."""

    def __missing__(self, word: bytes) -> bytes:
        if len(self) >= _KEPT:
            self.clear()
        self[word] = number = _ELEMENT(4, crc32(word) >> 8)  # 24 bits are hardly less apart than 32
        return number


_NUMBERS: Final = _Numbers()
_COMMON: Final = frozenset(
    b"a all am an and any are as at be been but by can could did do does for from had has have he her here"
    b" his how i if in is it its ll m may me my no not of on or our re s she so t that the their them then"
    b" there these they this to us ve was we were what when which who will with would you your".split()
)
_MANY_COMMON: Final = _ELEMENT(4, -1)  # no word's number
_MANY: Final = 3  # of so many words one at least is common where many are


class _OtherNumbers(dict[bytes, bytes]):
    """The number of a word that is not common, nothing for one that is."""

    def __missing__(self, word: bytes) -> bytes:
        if len(self) >= _KEPT:
            self.clear()
        self[word] = number = b"" if word in _COMMON else _NUMBERS[word]
        return number


_OTHER_NUMBERS: Final = _OtherNumbers()
_number: Final = _NUMBERS.__getitem__
_other_number: Final = _OTHER_NUMBERS.__getitem__


def numbers_of(text: str) -> bytes:
    """Return the numbers of the words that are searched, as the elements of PostgreSQL's binary arrays."""
    words = _words(text)
    others = b"".join(map(_other_number, words))
    common = len(words) - len(others) // _SIZE
    if common * _MANY < len(words) or not common:
        return b"".join(map(_number, words))
    return others + _MANY_COMMON


def _words(text: str) -> Collection[bytes]:
    runs = _runs(text if len(text) <= SEARCHED else text[:SEARCHED])
    return runs if len(runs) < _FEW else dict.fromkeys(runs)


def _runs(text: str) -> list[bytes]:
    """Return what stands between all that is neither a letter nor a digit, in small letters."""
    if text.isascii():
        return text.encode().translate(_ASCII).split()
    # What becomes another word in small letters here than there: İ is two characters, and Σ has two forms.
    small = text.replace("İ", "i").lower().replace("ς", "σ")
    return [run.encode() for run in _RUN.findall(_ODD.sub(" ", small))]


# A word (or a quotation) behind a minus is not wanted, and marks of HTML are no words. Where it is not clear
# whether it is a minus, it is taken for one: what is not asked of the index is still asked of the text.
_UNWANTED: Final = re.compile(r'-+\W*"[^"]*"?|(?<![^\W_])-\W*[^\s"]*|&#?\w+;|<[^>]*>')
_OR: Final = re.compile(r"(?<![^\W_])or(?![^\W_])", re.IGNORECASE)


def wanted(looked_for: str) -> list[str]:
    """Return arrays of numbers, one of which every text has that is found; none where that cannot be said.

    Reads `looked_for` as PostgreSQL's `websearch_to_tsquery` does, or asks for less.
    """
    parts = [_words(_UNWANTED.sub(" ", part)) for part in _OR.split(looked_for)]
    return [array_text(numbers) for words in parts for numbers in _asked(words)] if all(parts) else []


def _asked(words: Collection[bytes]) -> list[bytes]:
    """Return the numbers that a text with these words has: common ones have their own or one for all."""
    if others := b"".join(map(_other_number, words)):
        return [others]
    return [b"".join(map(_number, words)), _MANY_COMMON]
