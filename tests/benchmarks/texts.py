"""Texts of a given size in made-up words, few of them common and most rare; the same in every run."""

import random
from itertools import cycle


def texts(size: int, seed: int) -> "cycle[str]":
    """Return texts of `size` ASCII characters, one after the other for ever."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(3000)]
    common = [1 / rank for rank in range(1, len(words) + 1)]  # as in any language
    return cycle(" ".join(chance.choices(words, common, k=size // 2))[:size] for _ in range(500))
