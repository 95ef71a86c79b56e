"""The pages of the documentation, taken apart: their blocks of code, their links, and shell sessions to run.

A block marked `bash` is a promise: it runs as it stands, and where a block marked `text` follows it, each of
its lines is in what the commands really say, in this order (`…` stands for anything). Blocks marked `sh` are
for people only. A page's `bash` blocks are one session: what one sets, the next one sees.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_MARK = "@@ block"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line it begins in."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Step:
    """A block to run, and what has to be said then."""

    block: Block
    expected: str


def tracked() -> list[Path]:
    """Return the files of the repository, those not yet committed included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for name in done.stdout.splitlines() if (path := REPOSITORY / name).is_file()]


def pages() -> list[Path]:
    """Return the pages of the documentation."""
    return [
        REPOSITORY / "README.md",
        REPOSITORY / "CHANGELOG.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
    ]


def page(name: str) -> str:
    """Return a page of docs/, or README."""
    path = REPOSITORY / name if name == "README.md" else REPOSITORY / "docs" / name
    return path.read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(text)
    ]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCED.sub("", text)


def rows(text: str, section: str) -> dict[str, list[str]]:
    """Return the cells of a marked table, by the code span that a row begins with; there has to be one."""
    inside = text.partition(f"<!-- {section}")[2].partition(f"<!-- /{section} -->")[0]
    lines = [line.strip("|").split("|") for line in inside.splitlines() if line.startswith("| `")]
    assert lines, f"no table is marked {section}"
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


def steps(text: str) -> list[Step]:
    """Return the `bash` blocks of a page, each with the `text` that follows it at once."""
    found = blocks(text)
    after = [*found[1:], Block("", "", 0)]
    return [
        Step(one, following.text if following.language == "text" else "")
        for one, following in zip(found, after, strict=True)
        if one.language == "bash"
    ]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as they are made by the sites that show it."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """Return where a page links to."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def run_session(
    session: list[Step], folder: Path, port: int, environment: Mapping[str, str], timeout_s: float = 60
) -> list[str]:
    """Run the blocks in one shell and return what each said; port 8000 becomes ours."""
    lines = []
    for number, step in enumerate(session):
        lines += [f"echo; echo '{_MARK} {number}'", step.block.text.replace("8000", str(port))]
    script = folder / "session.sh"
    script.write_text("\n".join(lines), encoding="utf-8")
    shell = subprocess.Popen(
        ["bash", str(script)],
        cwd=folder, env=_environment(folder, {"MINUTEBOOK_PORT": str(port), **environment}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = shell.communicate(timeout=timeout_s)
    finally:
        with suppress(ProcessLookupError):  # a server that the session left running
            os.killpg(shell.pid, signal.SIGKILL)
    return re.split(rf"^{_MARK} \d+\n", said, flags=re.MULTILINE)[1:]


def _environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Give the session `.venv/bin/minutebook`, as after `make run`, and none of our own settings."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    minutebook = programs / "minutebook"
    minutebook.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m api "$@"\n', encoding="utf-8")
    minutebook.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINUTEBOOK_")}
    ours = {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1"}
    return {**kept, **ours, "COLUMNS": "120", **more}


def missing_line(expected: str, said: str) -> str | None:
    """Return the first line that is expected and was not said after the ones before it, or None."""
    left = iter(said.splitlines())
    for line in filter(None, map(str.strip, expected.splitlines())):
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        if not any(pattern.fullmatch(one.strip()) for one in left):
            return line
    return None
