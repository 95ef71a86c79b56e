"""What an import says when the database goes away in the middle of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import typer

from api import cli_import
from application.errors import StoreUnavailableError


class GoneLog:
    async def store(self, *_: object) -> bool:
        raise StoreUnavailableError


@contextmanager
def no_database(_: object) -> Iterator[str]:
    yield "postgresql://nowhere"


@asynccontextmanager
async def gone_log(*_: object) -> AsyncIterator[GoneLog]:
    yield GoneLog()


def test_a_database_that_goes_away_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_import, "database", no_database)
    monkeypatch.setattr(cli_import, "open_import_log", gone_log)
    file = tmp_path / "chats.json"
    file.write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    with pytest.raises(typer.Exit) as ended:
        cli_import.import_conversations(file)
    assert ended.value.exit_code == 1
    said = capsys.readouterr()
    assert (said.out, "import the file again" in said.err, "turn" in said.err) == ("", True, False)
