"""Events that are kept in memory: what was put in comes out, and they never take more than they may."""

from typing import Any

from domain.aggregate import By
from domain.conversation import Conversation
from infrastructure.postgres.recent import RecentEvents

BY = By("user:ada", "t1")


def said(count: int) -> list[Any]:
    conversation = Conversation.begin("c1", BY)
    for number in range(count):
        conversation.receive_user_message(f"m{number}", f"message {number}", BY)
    return list(conversation.collect_events())


def test_an_event_that_was_kept_is_found_by_its_stream_and_version() -> None:
    recent, events = RecentEvents(), said(2)
    recent.keep("conversation-c1", events[1], 100)
    assert recent.get("conversation-c1", 2) is events[1]
    assert recent.get("conversation-c1", 1) is None
    assert recent.get("conversation-c2", 2) is None
    assert recent.knows("conversation-c1")
    assert not recent.knows("conversation-c2")


def test_the_events_that_nobody_used_for_longest_make_room() -> None:
    recent, events = RecentEvents(most_bytes=250), said(3)
    recent.keep("conversation-c1", events[0], 100)
    recent.keep("conversation-c1", events[1], 100)
    assert recent.get("conversation-c1", 1) is events[0]  # used: the second one is now the oldest
    recent.keep("conversation-c1", events[2], 100)
    assert [recent.get("conversation-c1", version) for version in (1, 2, 3)] == [events[0], None, events[2]]


def test_keeping_an_event_twice_takes_its_room_once() -> None:
    recent, events = RecentEvents(most_bytes=250), said(1)
    for _ in range(10):
        recent.keep("conversation-c1", events[0], 100)
    recent.keep("conversation-c1", events[1], 100)
    assert recent.get("conversation-c1", 1) is events[0]


def test_an_event_larger_than_all_the_room_is_not_kept_and_leaves_nothing_behind() -> None:
    recent, events = RecentEvents(most_bytes=50), said(1)
    recent.keep("conversation-c1", events[0], 100)
    assert recent.get("conversation-c1", 1) is None
    assert not recent.knows("conversation-c1")
