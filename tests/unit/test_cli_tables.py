"""Tables on a terminal."""

import pytest

from api.cli_tables import add_to, print_table, table_of

TURN = "01a20751-ca41-7b34-b39d-10082fcf3fdb"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")


def test_an_id_is_never_cut_however_narrow_the_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("turn", "conversation", "kind", "what")
    add_to(table, TURN, "c" * 255, "user_message", "w" * 400)
    print_table(table, cut_last=True)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["turn", "conversation", "kind", "what"]
    assert row.split()[:3] == [TURN, "c" * 255, "user_message"]
    assert len(row.split()[3]) == 20


def test_no_line_ends_in_spaces_that_a_terminal_would_break(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("name", "error")
    add_to(table, "fine", "")
    add_to(table, "stopped", "some reason why")
    print_table(table)
    assert [line for line in capsys.readouterr().out.splitlines() if line != line.rstrip()] == []


def test_a_last_cell_that_gives_way_takes_the_room_that_the_others_leave(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = table_of("n", "what")
    add_to(table, "1", "w" * 400)
    print_table(table, cut_last=True)
    _, row = capsys.readouterr().out.splitlines()
    assert 36 <= len(row) <= 40


def test_what_is_no_detail_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("name", "error")
    add_to(table, "stopped", "why " * 50)
    print_table(table)
    assert capsys.readouterr().out.count("why") == 50
