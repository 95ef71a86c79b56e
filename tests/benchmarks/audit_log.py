"""The rows of a log of many millions of events, as they stand in PostgreSQL's binary form.

The recorded conversations happen once, through the aggregates. Their rows are then repeated over and over:
for each round of all of them positions, times and ids are new, and what the events say is sealed with the
key of its conversation, as it always is. The events of a turn stand together, and the conversations of a
round go on turn by turn, side by side.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from struct import Struct
from typing import Final

from infrastructure.packing import packed
from infrastructure.postgres.batch import NewEvent
from infrastructure.vault import DataKey, Vault, about_event
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

LOG: Final = "position, recorded_at, version, stream, type, conversation, turn, actor, data"
TURNS: Final = (
    "first_position, last_position, accepted_at, lease_until, ended_at, id, conversation, subject, kind,"
    " state, node, payload_hash"
)
KEYS: Final = "conversation, wrapped"
_SEALED_BYTES: Final = 29  # that what is sealed is longer: a mark, a nonce and a tag
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


def _id(conversation: int, place: bytes = _ROUND) -> bytes:
    return b"%b-0000-7000-8000-%012x" % (place, conversation)


def _place(number: int) -> bytes:
    return b"%08x" % number


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

    @property
    def size(self) -> int:
        """Return how many bytes a round has so far."""
        return self._size

    def rows(self, number: int) -> bytearray:
        """Return the rows of this round, all but their numbers."""
        person = b"%05d" % (number % PERSONS)
        self._pieces = [b"".join(self._pieces)]
        return bytearray(self._pieces[0].replace(_ROUND, _place(number)).replace(_PERSON, person))


@dataclass(frozen=True)
class _Said:
    """What an event says, and where that ends in the rows of a round."""

    conversation: int
    event: NewEvent
    end: int


class BigLog:
    """The rows of the log, of its turns and of its keys, round by round."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._keys: dict[str, DataKey] = {}
        self._said: list[_Said] = []
        self._log, self._turns = _Template(), _Template()
        self._spans: list[tuple[int, int]] = []
        for turn in turns_of_a_round():
            self._spans.append((self.events_a_round + 1, self.events_a_round + len(turn.events)))
            for event in turn.events:
                self._add_event(turn.conversation, event)
                self._said.append(_Said(turn.conversation, event, self._log.size))
            self._add_turn(turn)

    @property
    def events_a_round(self) -> int:
        return len(self._log.places)

    def key_rows(self, rounds: Iterable[int]) -> Iterator[bytes]:
        """Make the keys of these rounds, and yield their rows as a binary COPY takes them."""
        yield _SIGNATURE
        for number in rounds:
            for conversation in {said.conversation for said in self._said}:
                own_id = _id(conversation, _place(number))
                self._keys[own_id.decode()], wrapped = self._vault.new_key(own_id.decode())
                yield _FIELDS(2) + _text(own_id) + _text(wrapped)
        yield _END

    def log_rows(self, rounds: Iterable[int]) -> Iterator[bytes]:
        """Yield the rows of the log; the keys of these rounds have been made."""
        yield _SIGNATURE
        for number in rounds:
            rows, position = self._log.rows(number), number * self.events_a_round
            for place in self._log.places:
                position += 1
                _PLACE.pack_into(rows, place, position, 8, BEGAN_US + position * 1_000_000 // EVENTS_A_SECOND)
            self._seal(rows, _place(number))
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

    def _seal(self, rows: bytearray, place: bytes) -> None:
        for said in self._said:
            own_id, event = _id(said.conversation, place).decode(), said.event
            about = about_event(f"{event.stream.partition('-')[0]}-{own_id}", event.version, event.type)
            sealed = self._keys[own_id].seal(event.data, about)
            rows[said.end - len(sealed) : said.end] = sealed

    def _add_event(self, conversation: int, event: NewEvent) -> None:
        own_id = _id(conversation)
        self._log.add(
            9, _INT8(8, 0) + _INT8(8, 0), _INT4(4, event.version),
            _text(event.stream.partition("-")[0].encode() + b"-" + own_id), _text(event.type.encode()),
            _text(own_id), _text(event.turn.encode() + b"-" + own_id), _text(_actor(conversation, event)),
            _text(bytes(len(packed(event.data)) + _SEALED_BYTES)),
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
