"""The search finds by numbers what PostgreSQL finds by reading: every text that it would find."""

import random
from struct import pack
from zlib import crc32

import psycopg
import pytest

from infrastructure.projections.copying import array_text
from infrastructure.projections.words import SEARCHED, numbers_of, wanted

WORDS = [
    "foo", "bar", "Or", "or", "OR", "and", "e-mail", "a@b.com", "x.y/z", "12", "3.14", "1e5", "5RJ7UH",
    "don't", "under_score", "İstanbul", "istanbul", "ΟΔΟΣ", "οδος", "m²", "naïve", "日本語", "http://a.b/c?d=e",
    "<b>", "&amp;", "-7", "ab12", "/etc/passwd", "a-b-c", "_x", "é", "E", "the", "The", "to", "in", "is",
]  # fmt: skip
BETWEEN = [" ", " ", " ", " ", '"', "-", " -", *".,()!:'/*|&\\@#–\n"]
FOUND = """
    SELECT array_agg(id) FROM said
     WHERE to_tsvector('simple', text) @@ websearch_to_tsquery('simple', %s)"""


def jumbled(chance: random.Random, words: int) -> str:
    return "".join(chance.choice(WORDS) + chance.choice(BETWEEN) for _ in range(words))


def pack_of(*words: str) -> bytes:
    return b"".join(pack("!ii", 4, crc32(word.encode()) >> 8) for word in words)


def each(array: str) -> set[str]:
    return set(array.strip("{}").split(","))


@pytest.mark.parametrize("seed", range(3))
def test_every_text_that_is_found_has_the_numbers_that_are_wanted(database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    texts = [jumbled(chance, chance.randint(1, 12)) for _ in range(200)]
    numbers = [each(array_text(numbers_of(text))) for text in texts]
    found_by_numbers = 0
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TEMP TABLE said (id int, text text)")
        connection.cursor().executemany("INSERT INTO said VALUES (%s, %s)", list(enumerate(texts)))
        for _ in range(500):
            looked_for = jumbled(chance, chance.randint(1, 3))
            row = connection.execute(FOUND, [looked_for]).fetchone()
            sets = list(map(each, wanted(looked_for)))
            for number in (row and row[0]) or () if sets else ():
                found_by_numbers += 1
                assert any(one <= numbers[number] for one in sets), (looked_for, texts[number])
    assert found_by_numbers > 1_000


@pytest.mark.parametrize(
    ("looked_for", "words"),
    [
        ("Gift card", ["gift card"]),
        ("the card", ["card"]),
        ('"one way" or return', ["one way", "return"]),
        ("flight -cancelled", ["flight"]),
        ('flight -"with a stop"', ["flight"]),
        ("Omar's e-mail", ["omar e mail"]),
    ],
)
def test_all_words_are_wanted_but_those_behind_a_minus(looked_for: str, words: list[str]) -> None:
    assert wanted(looked_for) == [array_text(numbers_of(some)) for some in words]


@pytest.mark.parametrize("looked_for", ["", "!!!", "-flight", "flight or -cancelled"])
def test_nothing_is_asked_of_the_index_where_any_text_may_be_found(looked_for: str) -> None:
    assert wanted(looked_for) == []


def test_a_words_number_never_changes() -> None:
    assert numbers_of("Reise, ÉTÉ") == numbers_of("reise été")
    assert array_text(numbers_of("reise été")) == "{3605516,4510060}"


def test_texts_with_many_common_words_have_one_number_for_them_and_others_keep_theirs() -> None:
    rich, poor = (
        numbers_of("I would like to have the refund"),
        numbers_of("was kostet das Gepäck in der Kabine"),
    )
    assert each(array_text(rich)) == each(array_text(numbers_of("like refund"))) | {"-1"}
    assert len(each(array_text(poor))) == 7
    assert wanted("to have") == [array_text(pack_of("to", "have")), "{-1}"]
    assert wanted("was") == [array_text(pack_of("was")), "{-1}"]


def test_as_much_of_a_text_has_numbers_as_is_searched() -> None:
    assert numbers_of("a " * SEARCHED + "late") == numbers_of("a")
