"""The contracts of the layers really refuse what they say they refuse."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOUND = {
    "domain/core.py": "import json\nimport eventsourcing.domain\n",
    "application/use.py": "import domain.core\n",
    "infrastructure/keep.py": "import psycopg\nimport application.use\n",
    "api/bootstrap/house.py": "import fastapi\nimport infrastructure.keep\n",
    "api/app.py": "import api.bootstrap.house\nimport application.use\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of the same layers, held by the project's own contracts."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for package in (
        "domain",
        "application",
        "infrastructure",
        "api",
        "api/bootstrap",
        "api/console",
        "tests",
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(REPOSITORY / "tests" / "import_contracts.py", tmp_path / "tests")
    for name, text in SOUND.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    environment = {**os.environ, "COLUMNS": "200"}
    command = [str(program), "--no-cache"]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def test_imports_along_the_layers_are_fine(tree: Path) -> None:
    done = lint_imports(tree)
    assert done.returncode == 0, done.stdout
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("domain/other.py", "import pydantic", "The domain knows"),
        ("domain/other.py", "import application.use", "api -> application -> domain"),
        ("application/other.py", "import infrastructure.keep", "api -> application -> domain"),
        ("application/other.py", "from starlette.requests import Request", "The application knows no"),
        ("application/other.py", "import psycopg", "The application knows no"),
        ("infrastructure/other.py", "import api.app", "api -> application -> domain"),
        ("api/other.py", "import infrastructure.keep", "Only api.bootstrap"),
        ("api/console/__init__.py", "from infrastructure import keep", "Only api.bootstrap"),
    ],
)
def test_an_import_against_the_layers_breaks_its_contract(
    tree: Path, module: str, line: str, broken: str
) -> None:
    (tree / module).write_text(f"{line}\n")
    done = lint_imports(tree)
    assert done.returncode == 1
    assert any(row.startswith(broken) and "BROKEN" in row for row in done.stdout.splitlines()), done.stdout


def test_a_command_that_serves_nothing_does_not_load_the_web_framework() -> None:
    heavy = {"fastapi", "uvicorn", "pydantic_ai", "pyarrow"}
    program = f"import sys, api.cli; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
