"""The image and the compose file name what there is: nothing here needs an engine that runs them."""

import re
import tomllib
from pathlib import Path

from api.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def copied() -> set[str]:
    """Everything the image's build takes from the repository."""
    sources = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {name for line in sources for name in line.split()}


def test_the_build_may_see_everything_it_copies() -> None:
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert copied() <= admitted
    assert all((ROOT / name).exists() for name in copied())


def test_every_package_that_is_installed_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix(".*") for name in packages} <= copied()


def test_every_setting_they_name_is_one() -> None:
    named = set(re.findall(r"(?:MINUTEBOOK_)(\w+)(?=[:=])", DOCKERFILE + COMPOSE))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
