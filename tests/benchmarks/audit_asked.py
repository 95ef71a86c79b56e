"""What an auditor asks for: every filter alone, and the combinations that are hard to answer."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import psycopg

from application.audit import EventFilter
from application.event_types import EVENT_TYPES
from tests.benchmarks.audit_log import PERSONS

Asked = Mapping[str, Callable[[int], EventFilter]]
SPREAD: Final = 0.6180339887  # the golden ratio: questions are spread over the log, however many they are

RECEIVED: Final = ("conversation.user_message_received",)
APPROVED: Final = ("conversation.tool_call_approved",)
STARTED: Final = ("conversation.started",)
CALLED: Final = ("agent.model_called",)
OF_CONVERSATIONS: Final = tuple(name for name in EVENT_TYPES if name.startswith("conversation."))
FREQUENT: Final = "agent:airline"
OFTEN: Final = "agent:refunds"
SELDOM: Final = "agent:billing"


class Log:
    """What there is to ask for: events of the log, spread over all of it."""

    def __init__(self, url: str, times: int) -> None:
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT position, recorded_at FROM log_head").fetchone()
            assert row
            self.head, self.newest = int(row[0]), row[1]
            wanted = [1 + int(n * SPREAD % 1 * (self.head - 1)) for n in range(times + 8)]
            rows = connection.execute(
                "SELECT position, conversation, stream, turn, actor, recorded_at FROM log"
                " WHERE position = ANY(%s)",
                [wanted],
            ).fetchall()
        self.rows = sorted(rows, key=lambda one: wanted.index(one[0]))

    def at(self, n: int) -> tuple[int, str, str, str, str, datetime]:
        """Return position, conversation, stream, turn, actor and time of some event."""
        row = self.rows[n % len(self.rows)]
        return row[0], row[1], row[2], row[3], row[4], row[5]


def person(n: int) -> str:
    """Return somebody who took part, in a few hundred events all over the log."""
    return f"user:person-{n % PERSONS:05}-{n % 40:03}"


def everything(log: Log) -> Asked:
    """Return all that is asked, each a function of the number of the question."""
    return {**places(log), **values(log), **pairs(log), **texts(log)}


def places(log: Log) -> Asked:
    """Return what is asked by place and time."""
    return {
        "the oldest": lambda _: EventFilter(),
        "the newest": lambda _: EventFilter(newest_first=True),
        "after a position": lambda n: EventFilter(after=log.at(n)[0]),
        "between two positions, newest first": lambda n: EventFilter(
            after=log.at(n)[0], before=log.at(n)[0] + 90_000, newest_first=True
        ),
        "from a time": lambda n: EventFilter(since=log.at(n)[5]),
        "between two times, newest first": lambda n: EventFilter(
            since=log.at(n)[5], until=log.at(n)[5] + timedelta(hours=3), newest_first=True
        ),
        "a conversation": lambda n: EventFilter(conversation=log.at(n)[1]),
        "a stream": lambda n: EventFilter(stream=log.at(n)[2]),
        "a turn": lambda n: EventFilter(turn=log.at(n)[3]),
    }


def values(log: Log) -> Asked:
    """Return what is asked by one filter of each other kind, for what is frequent, rare and not there."""
    return {
        "a frequent type": lambda n: EventFilter(types=RECEIVED, after=log.at(n)[0]),
        "a rare type, newest first": lambda n: EventFilter(
            types=STARTED, before=log.at(n)[0], newest_first=True
        ),
        "a type there is not one of": lambda _: EventFilter(types=("conversation.archived",)),
        "two types": lambda n: EventFilter(types=RECEIVED + APPROVED, after=log.at(n)[0]),
        "every type of a glob": lambda n: EventFilter(types=OF_CONVERSATIONS, after=log.at(n)[0]),
        "a person": lambda n: EventFilter(actor=person(n)),
        "a person, newest first": lambda n: EventFilter(actor=person(n), newest_first=True),
        "a frequent agent": lambda n: EventFilter(actor=FREQUENT, after=log.at(n)[0]),
        "another agent, newest first": lambda n: EventFilter(
            actor=OFTEN, before=log.at(n)[0], newest_first=True
        ),
        "an agent who is seldom there": lambda n: EventFilter(actor=SELDOM, after=log.at(n)[0]),
        "nobody": lambda n: EventFilter(actor=f"user:nobody-{n}"),
        "a tool": lambda n: EventFilter(tool="book_reservation", after=log.at(n)[0]),
        "a tool, newest first": lambda n: EventFilter(
            tool="get_user_details", before=log.at(n)[0], newest_first=True
        ),
        "a tool nobody called": lambda n: EventFilter(tool=f"nothing-{n}"),
    }


def pairs(log: Log) -> Asked:
    """Return what is asked by several filters, each of which leaves another share of the log."""
    return {
        "an agent and a type it never has": lambda n: EventFilter(
            actor=FREQUENT, types=RECEIVED, after=log.at(n)[0]
        ),
        "the same, newest first": lambda n: EventFilter(
            actor=FREQUENT, types=RECEIVED, before=log.at(n)[0], newest_first=True
        ),
        "a seldom agent and a type it never has": lambda n: EventFilter(
            actor=SELDOM, types=RECEIVED, after=log.at(n)[0]
        ),
        "an agent and every type of a glob, newest first": lambda n: EventFilter(
            actor=OFTEN, types=OF_CONVERSATIONS, before=log.at(n)[0], newest_first=True
        ),
        "a person and a frequent type": lambda n: EventFilter(actor=person(n), types=RECEIVED),
        "a person and a type they never have": lambda n: EventFilter(
            actor=person(n), types=CALLED, newest_first=True
        ),
        "a person and a tool": lambda n: EventFilter(actor=person(n), tool="get_user_details"),
        "a person and every type of a glob": lambda n: EventFilter(
            actor=person(n), types=OF_CONVERSATIONS, after=log.at(n)[0]
        ),
        "a person from a time": lambda n: EventFilter(actor=person(n), since=log.at(n)[5]),
        "an agent between two times, newest first": lambda n: EventFilter(
            actor=SELDOM, since=log.at(n)[5], until=log.at(n)[5] + timedelta(days=3), newest_first=True
        ),
        "an actor, two types and a time": lambda n: EventFilter(
            actor=log.at(n)[4], types=RECEIVED + CALLED, since=log.at(n)[5]
        ),
        "a conversation and an agent": lambda n: EventFilter(conversation=log.at(n)[1], actor=FREQUENT),
        "a conversation and a tool": lambda n: EventFilter(
            conversation=log.at(n)[1], tool="book_reservation"
        ),
        "a turn and a type": lambda n: EventFilter(turn=log.at(n)[3], types=CALLED),
        "a tool and an agent": lambda n: EventFilter(
            tool="cancel_reservation", actor=(FREQUENT, SELDOM)[n % 2], after=log.at(n)[0]
        ),
        "a tool and a type it never has": lambda n: EventFilter(
            tool="get_user_details", types=STARTED, after=log.at(n)[0]
        ),
    }


def texts(log: Log) -> Asked:
    """Return what is asked by text: everywhere, here and there, and nowhere."""
    return {
        "a letter": lambda n: EventFilter(text="e", after=log.at(n)[0]),
        "a frequent word": lambda n: EventFilter(text="reservation", after=log.at(n)[0]),
        "a frequent word, newest first": lambda n: EventFilter(
            text="Reservation", before=log.at(n)[0], newest_first=True
        ),
        "a word nobody says": lambda n: EventFilter(text="zebra crossing", after=log.at(n)[0]),
        "a word nobody says, newest first": lambda n: EventFilter(
            text="zebra crossing", before=log.at(n)[0], newest_first=True
        ),
        "a word a person does not say": lambda n: EventFilter(text="zebra", actor=person(n)),
        "a word in a frequent type": lambda n: EventFilter(
            text="luggage", types=("conversation.tool_result_received",), after=log.at(n)[0]
        ),
        "a word in a tool's calls": lambda _: EventFilter(text="JFK", tool="search_direct_flight"),
        "a word in a conversation": lambda n: EventFilter(text="the", conversation=log.at(n)[1]),
    }
