"""An export in the midst of which a conversation is erased does not end with what was said there."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from application.exporting import FORMATS, ExportError, ExportStep, Format, Manifest, Selection
from infrastructure.exports import selecting
from infrastructure.exports.operating import write_export
from tests.exported import fill_sealed
from tests.integration.test_erasure_rebuilt import erase
from tests.opened import vault


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log of three conversations with ten events each, exported in six chunks."""
    fill_sealed(database_url, 30, each=10)
    monkeypatch.setattr(selecting, "WINDOW", 5)
    return database_url


def exported(
    url: str,
    file: Path,
    selection: Selection | None = None,
    form: Format = "ndjson",
    on_step: Callable[[ExportStep], None] = lambda _: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Manifest | None:
    return write_export(url, vault(), selection or Selection(), form, file, on_step, is_cancelled)


def erases_at(position: int, url: str, conversation: str) -> Callable[[ExportStep], None]:
    def step(now: ExportStep) -> None:
        if (now.phase, now.position) == ("exporting", position):
            asyncio.run(erase(url, conversation))

    return step


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_is_refused_at_its_end_where_it_holds_what_was_erased_meanwhile(
    form: Format, url: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"c0 was erased after it had begun.*remove that folder"):
        exported(url, tmp_path / "log", form=form, on_step=erases_at(15, url, "c0"))
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "log.manifest.json").exists()


def test_an_export_that_goes_on_after_an_erasure_is_refused_at_once(url: str, tmp_path: Path) -> None:
    steps: list[int] = []
    file = tmp_path / "log"
    assert (
        exported(
            url, file, on_step=lambda step: steps.append(step.position), is_cancelled=lambda: len(steps) > 1
        )
        is None
    )
    assert b"number 1" in (tmp_path / "log.part" / "data").read_bytes()
    asyncio.run(erase(url, "c0"))
    with pytest.raises(ExportError, match="c0 was erased after it had begun"):
        exported(url, file, on_step=lambda step: pytest.fail(f"it went on: {step}"))


def test_an_erasure_of_what_is_not_exported_and_one_from_before_hold_up_no_export(
    url: str, tmp_path: Path
) -> None:
    asyncio.run(erase(url, "c0"))
    file = tmp_path / "begun-after"
    assert exported(url, file, Selection(last=20))
    assert b"number 1," not in file.read_bytes()
    others = Selection(last=20)
    assert exported(url, tmp_path / "others", others, on_step=erases_at(10, url, "c2"))
    one = Selection(conversation="c1")
    assert exported(url, tmp_path / "one", one, on_step=erases_at(31, url, "c2"))
