"""docs/how-to-add-a-read-model.md can be followed: the read model it builds is built from the page alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from infrastructure.postgres.pool import open_pool
from infrastructure.projections import registry
from tests.asking import query
from tests.command_line import environment
from tests.projecting import checkpoint, held, reference, store, wait_until
from tests.reading import asks, catch_up, of
from tests.serving import REPOSITORY, SIGNING_KEY

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


def tree_with_it(folder: Path) -> Path:
    """Return a copy of the program, with what the page says done to it."""
    for name in ("domain", "application", "infrastructure", "api"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:2]
    file, line = re.findall(r"`(infrastructure/\S+tool_failures.py)`|add `(\w+\(\))` to `READ_MODELS`", PAGE)
    (folder / file[0]).write_text(first.replace("from typing", f"{IMPORTS}from typing", 1) + second)
    registry_file = folder / "infrastructure/projections/registry.py"
    importing = "from infrastructure.projections.tool_failures import ToolFailures\n"
    text = registry_file.read_text().replace("\n\nREAD_MODELS", f"\n{importing}\nREAD_MODELS")
    registry_file.write_text(text.replace("    Requests(),\n", f"    Requests(),\n    {line[1]},\n"))
    return folder


# The commands one after the other in one process: to start each takes longer than what it does.
COMMANDS = (
    "import sys; from api.cli import cli\nfor line in sys.argv[1:]: cli(line.split(), standalone_mode=False)"
)


@pytest.mark.may_block("the program is another process")
def test_the_server_and_the_commands_of_the_page_take_it(database_url: str, server_folder: Path) -> None:
    failed = ("receive_tool_result", ("call-1", None, "disk full"))
    head = store(database_url, of("ada", "c1", asks("call-1", requires_decision=False), failed))
    tree = tree_with_it(server_folder)
    settings = {"database_url": database_url, "signing_key": SIGNING_KEY}
    program: dict[str, Any] = {
        "cwd": tree,
        "env": {**environment(settings), "PYTHONPATH": str(tree)},
        "text": True,
    }
    with subprocess.Popen([sys.executable, "-m", "api", "serve", "--port", "0"], **program) as server:
        try:
            wait_until(
                lambda: checkpoint(database_url, "tool_failures").get("position") == head, timeout_s=60
            )
        finally:
            server.terminate()
    lines = re.findall(r"^\$ minutebook (.*)$", PAGE, re.MULTILINE)
    assert lines == ["projections", "rebuild tool_failures", "rebuild --verify tool_failures"]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *lines], capture_output=True, check=False, **program
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"tool_failures: built anew up to position {head}" in done.stdout
    assert "tool_failures: every row is as the log says" in done.stdout
    assert query(database_url, "SELECT tool, runs, failures FROM read_tools") == [("write_file", 1, 1)]


def test_the_page_names_what_is_there() -> None:
    assert "`READ_MODELS`" in PAGE
    assert registry.READ_MODELS
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE):
        there = (Path(__file__).parents[2] / name).exists()
        assert there or name.endswith("tool_failures.py"), name
