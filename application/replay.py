"""How a turn that is over reads: from its row and the log, at any age, on any node."""

from collections import defaultdict
from collections.abc import Sequence

from application.errors import TurnAbandonedError
from application.frames import Frame, after, committed_frames, failed_frame
from application.ports import EventLog, LoggedEvent, TurnRow
from domain.errors import MinutebookError

_BY_CODE: dict[str, type[MinutebookError]] = defaultdict(lambda: MinutebookError)


async def ended_frames(row: TurnRow, log: EventLog, seq: int = 0) -> list[Frame]:
    """Return what is left to read after `seq` of a turn that is over."""
    if row.state == "failed":
        return [failed_frame(row, failure_of(row), row.provisional_frames + 1)]
    if row.state != "committed":
        # Nobody counted the frames of an abandoned turn: its end comes after whatever was seen.
        return [failed_frame(row, failure_of(row), seq + 1)]
    return after(committed_frames(row, await stored_events(row, log)), seq)


async def stored_events(row: TurnRow, log: EventLog) -> Sequence[LoggedEvent]:
    """Return the events that a committed turn tells of: its own, or those of the turn it repeats."""
    return await log.read(row.first_position, row.last_position or 0) if row.first_position else []


def failure_of(row: TurnRow) -> MinutebookError:
    """Return the error a turn ended with, as its terminal frame said it."""
    if row.state == "abandoned":
        return TurnAbandonedError()
    return error_of(row.code or "", (row.outcome or {}).get("message", ""))


def error_of(code: str, message: str) -> MinutebookError:
    """Return the error that a terminal frame tells of."""
    if not _BY_CODE:
        _BY_CODE.update({kind.code: kind for kind in error_kinds()})
    kind = _BY_CODE[code]
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.details = {}
    return error


def error_kinds(kind: type[MinutebookError] = MinutebookError) -> list[type[MinutebookError]]:
    """Return every class of error the house can answer with, subclasses after their bases."""
    return [kind, *(one for child in kind.__subclasses__() for one in error_kinds(child))]
