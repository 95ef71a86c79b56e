"""docs/how-to-add-a-read-model.md can be followed: the read model it builds is built from the page alone."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

from infrastructure.postgres.pool import open_pool
from infrastructure.projections import registry
from tests.projecting import held, reference, store
from tests.reading import asks, catch_up, of

PAGE = (Path(__file__).parents[2] / "docs" / "how-to-add-a-read-model.md").read_text(encoding="utf-8")
# What the page names in words, for the second block.
IMPORTS = """
from collections.abc import Mapping
from application.queries import Answer
from infrastructure.projections.asking import Asker
from infrastructure.postgres.pool import Pool
"""


def built() -> Any:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for line in IMPORTS.strip().splitlines():
        _, place, _, name = line.split()
        assert f"`{name}`" in PAGE
        assert f"`{place}`" in PAGE
    module = ModuleType("tool_failures")
    exec(blocks[0] + IMPORTS + blocks[1], vars(module))
    return module


async def test_the_read_model_of_the_page_counts_what_it_says(database_url: str) -> None:
    module, history = built(), []
    for number, error in enumerate([None, "no such file", None, "disk full"]):
        history += [asks(f"call-{number}", requires_decision=False)]
        history += [("receive_tool_result", (f"call-{number}", None, error))]
    store(database_url, of("ada", "c1", *history))
    store(database_url, of("bob", "c2", *history[:4]))
    model = module.ToolFailures()
    catch_up(database_url, model)
    assert held(database_url, model) == reference(database_url, model)
    async with open_pool(database_url, min_size=1, max_size=1) as pool:
        answer = await module.PostgresToolFailures(pool).worst(10)
    assert answer.value == {"write_file": 3}
    assert answer.position > 0


def test_the_page_names_what_is_there() -> None:
    assert "`READ_MODELS`" in PAGE
    assert registry.READ_MODELS
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE):
        there = (Path(__file__).parents[2] / name).exists()
        assert there or name.endswith("tool_failures.py"), name
