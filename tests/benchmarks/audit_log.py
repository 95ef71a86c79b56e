"""A log of many millions of events, made in minutes: `python -m tests.benchmarks.audit_log URL EVENTS`.

The recorded conversations happen once, through the aggregates. Their rows are then copied over and over as
they stand in PostgreSQL's binary form: for each round of all of them only positions, times and ids are new.
The events of a turn stand together, and the conversations of a round go on turn by turn, side by side.

The tables are not logged while they fill: what is measured afterwards is read only.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from struct import Struct
from typing import Final

import psycopg

from infrastructure.postgres.batch import NewEvent
from tests.benchmarks.big_log import templates

_ROUND: Final = b"@ROUND@@"  # eight bytes, as the number of a round in hexadecimal digits
_PERSON: Final = b"@PER@"
PERSONS: Final = 83  # times the recorded conversations: so many people take part
EVENTS_A_SECOND: Final = 4
BEGAN_US: Final = 26 * 366 * 86_400 * 1_000_000  # of PostgreSQL's own time, which begins in 2000
AGENTS: Final = ("airline", "billing", "support", "booking", "refunds")

_FIELDS: Final = Struct("!h").pack
_INT2: Final = Struct("!ih").pack
_INT4: Final = Struct("!ii").pack
_INT8: Final = Struct("!iq").pack
_LENGTH: Final = Struct("!i").pack
_PLACE: Final = Struct("!qiq")  # two numbers, and between them the length of the second
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"

_LOG: Final = "position, recorded_at, version, stream, type, conversation, turn, actor, data"
_TURNS: Final = (
    "first_position, last_position, accepted_at, lease_until, ended_at, id, conversation, subject, kind,"
    " state, node, payload_hash"
)
_KINDS: Final = {
    "conversation.tool_result_received": "tool_result",
    "conversation.tool_call_approved": "hitl_decision",
}


@dataclass(frozen=True)
class Turn:
    """One turn of a recorded conversation."""

    conversation: int
    events: Sequence[NewEvent]


def turns_of_a_round() -> list[Turn]:
    """Return the turns of all recorded conversations, the first of each, then the second of each, …"""
    made = [
        (step, number, Turn(number, list(events)))
        for number, conversation in enumerate(templates())
        for step, (_, events) in enumerate(groupby(conversation, lambda event: event.turn))
    ]
    return [turn for _, _, turn in sorted(made, key=lambda one: one[:2])]


def _text(value: bytes) -> bytes:
    return _LENGTH(len(value)) + value


def _id(conversation: int) -> bytes:
    return b"%b-0000-7000-8000-%012x" % (_ROUND, conversation)


class _Template:
    """The rows of a round with room for their numbers."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self.places: list[int] = []

    def add(self, fields: int, head: bytes, *rest: bytes) -> None:
        """Add a row whose first two fields come with every round."""
        self.places.append(self._size + 2 + 4)
        row = _FIELDS(fields) + head + b"".join(rest)
        self._pieces.append(row)
        self._size += len(row)

    def rows(self, number: int) -> bytearray:
        """Return the rows of this round, all but their numbers."""
        person = b"%05d" % (number % PERSONS)
        self._pieces = [b"".join(self._pieces)]
        return bytearray(self._pieces[0].replace(_ROUND, b"%08x" % number).replace(_PERSON, person))


class BigLog:
    """The rows of the log and of its turns, round by round."""

    def __init__(self) -> None:
        self._log, self._turns = _Template(), _Template()
        self._spans: list[tuple[int, int]] = []
        for turn in turns_of_a_round():
            self._spans.append((self.events_a_round + 1, self.events_a_round + len(turn.events)))
            for event in turn.events:
                self._add_event(turn.conversation, event)
            self._add_turn(turn)

    @property
    def events_a_round(self) -> int:
        return len(self._log.places)

    def log_rows(self, rounds: Iterable[int]) -> Iterator[bytes]:
        """Yield the rows of the log as a binary COPY takes them."""
        yield _SIGNATURE
        for number in rounds:
            rows, position = self._log.rows(number), number * self.events_a_round
            for place in self._log.places:
                position += 1
                _PLACE.pack_into(rows, place, position, 8, BEGAN_US + position * 1_000_000 // EVENTS_A_SECOND)
            yield bytes(rows)
        yield _END

    def turn_rows(self, rounds: Iterable[int]) -> Iterator[bytes]:
        """Yield the rows of the turns."""
        yield _SIGNATURE
        for number in rounds:
            rows, before = self._turns.rows(number), number * self.events_a_round
            for place, (first, last) in zip(self._turns.places, self._spans, strict=True):
                _PLACE.pack_into(rows, place, before + first, 8, before + last)
            yield bytes(rows)
        yield _END

    def _add_event(self, conversation: int, event: NewEvent) -> None:
        own_id = _id(conversation)
        self._log.add(
            9, _INT8(8, 0) + _INT8(8, 0), _INT4(4, event.version),
            _text(event.stream.partition("-")[0].encode() + b"-" + own_id), _text(event.type.encode()),
            _text(own_id), _text(event.turn.encode() + b"-" + own_id), _text(_actor(conversation, event)),
            _text(event.data),
        )  # fmt: skip

    def _add_turn(self, turn: Turn) -> None:
        own_id, first = _id(turn.conversation), turn.events[0]
        kind = next((_KINDS[event.type] for event in turn.events if event.type in _KINDS), "user_message")
        self._turns.add(
            12, _INT8(8, 0) + _INT8(8, 0), *[_INT8(8, BEGAN_US)] * 3,
            _text(first.turn.encode() + b"-" + own_id), _text(own_id), _text(_person(turn.conversation)),
            _text(kind.encode()), _text(b"committed"), _text(b"node"), _text(b""),
        )  # fmt: skip


def _person(conversation: int) -> bytes:
    return b"person-%b-%03d" % (_PERSON, conversation)


def _actor(conversation: int, event: NewEvent) -> bytes:
    if event.actor == "user":
        return b"user:" + _person(conversation)
    # Some are on much more often than others.
    agent = AGENTS[min(conversation % 16, len(AGENTS) - 1)] if conversation % 3 else AGENTS[0]
    return b"agent:" + agent.encode()


_INDEXES: Final = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), conname FROM pg_index
      LEFT JOIN pg_constraint ON conindid = indexrelid AND contype IN ('p', 'u')
     WHERE indrelid = %s::regclass"""


def fill(url: str, events: int) -> int:
    """Fill an empty log with at least so many events, and with their turns; returns how many there are."""
    big = BigLog()
    rounds = range(-(-events // big.events_a_round))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '1GB'; SET max_parallel_maintenance_workers = 2")
        for table, columns, rows in (
            ("log", _LOG, big.log_rows(rounds)),
            ("turns", _TURNS, big.turn_rows(rounds)),
        ):
            _fill_table(connection, table, columns, rows)
    return len(rounds) * big.events_a_round


def _fill_table(connection: psycopg.Connection, table: str, columns: str, rows: Iterable[bytes]) -> None:
    """Copy the rows into the table, and build its indexes afterwards, all at once and as they were."""
    indexes = connection.execute(_INDEXES.encode(), [table]).fetchall()
    connection.execute(f"ALTER TABLE {table} SET UNLOGGED".encode())
    for name, _, constraint in indexes:
        drop = f"ALTER TABLE {table} DROP CONSTRAINT {constraint}" if constraint else f"DROP INDEX {name}"
        connection.execute(drop.encode())
    with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)".encode()) as copy:
        for piece in rows:
            copy.write(piece)
    for name, definition, constraint in indexes:
        connection.execute(definition.encode())
        if constraint:
            kind = "PRIMARY KEY" if constraint.endswith("_pkey") else "UNIQUE"
            connection.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {kind} USING INDEX {name}".encode()
            )
    connection.execute(f"VACUUM (ANALYZE) {table}".encode())


if __name__ == "__main__":
    print(fill(sys.argv[1], int(sys.argv[2])))
