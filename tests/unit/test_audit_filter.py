"""What an auditor asks for is understood or refused, never guessed."""

from datetime import UTC, datetime
from typing import Any

import pytest

from application.audit_filter import event_filter, mentions, place_of
from application.errors import InvalidFilterError
from application.event_types import EVENT_TYPES


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"types": ["conversation.tool_called"]}, "no event type is called 'conversation.tool_called'"),
        ({"types": ["switched"]}, "no event type is called 'switched'; they read as agent.switched"),
        ({"actor": "ada"}, "it reads user:<subject>, agent:<name> or system"),
        ({"agent": "no one"}, "it reads user:<subject>, agent:<name> or system"),
        ({"since": "yesterday"}, "it is a time as 2026-03-01"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "it has to be later than from"),
        ({"after": 5, "before": 6}, "no position lies between"),
        ({"stream": "c1"}, "it reads conversation-<id> or agent-<id>"),
        ({"conversation": "no good"}, "it is no id of a conversation"),
        ({"text": ""}, "a text of one line that is not empty"),
        ({"tool": "a\x00b"}, "a text of one line"),
        ({"text": "one\ntwo"}, "a text of one line"),
        ({"text": "\ud83d"}, "a text of one line"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_filter_is_refused_with_what_to_do(query: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidFilterError) as refused:
        event_filter(**query)
    assert sentence in str(refused.value)


def test_a_glob_stands_for_the_types_it_fits_and_all_of_them_for_none() -> None:
    calls = event_filter(types=["conversation.tool_call_*", "conversation.tool_call_closed"]).types
    assert set(calls) == {name for name in EVENT_TYPES if "tool_call_" in name}
    assert len(calls) == len(set(calls))
    assert event_filter(types=["*"]).types == ()


def test_an_agent_is_the_actor_alone_and_what_an_event_is_about_beside_another_actor() -> None:
    assert event_filter(agent="coder") == event_filter(actor="agent:coder", agent="coder")
    assert event_filter(agent="coder").actor == "agent:coder"
    both = event_filter(actor="user:ada", agent="coder")
    assert (both.actor, both.about) == ("user:ada", "coder")
    assert both.fits({"agent": "coder"})
    assert both.fits({"from": "ask", "to": "coder"})
    assert not both.fits({"from": "coder", "to": "ask", "tool": "coder"})


def test_a_time_without_a_zone_is_utc_and_one_with_a_zone_is_turned_into_it() -> None:
    assert event_filter(since="2026-03-01").since == datetime(2026, 3, 1, tzinfo=UTC)
    assert event_filter(since="2026-03-01T01:00+02:00").since == datetime(2026, 2, 28, 23, tzinfo=UTC)


def test_a_plus_that_an_address_made_a_space_of_is_one() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for given in ("2026-03-01T13:00:00 01:00", "2026-03-01 13:00 0100", "2026-03-01 13:00:00.0 01:00"):
        assert event_filter(since=given).since == noon
    assert event_filter(since="2026-03-01 12:00").since == noon


def test_words_of_every_script_can_be_looked_for() -> None:
    for word in ("می\u200cخواهم", "10\u00a0km", "👩\u200d🔬", "100% _\\"):
        assert event_filter(text=word).text == word


def test_a_place_is_a_position_or_a_time() -> None:
    assert place_of("at", "12") == 12
    assert place_of("at", "2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    for wrong in ("9" * 30, "later", "", "-1", "1.5"):
        with pytest.raises(InvalidFilterError, match=r"it is a position"):
            place_of("at", wrong)


def test_a_text_is_found_wherever_it_stands_in_what_an_event_says() -> None:
    said = {"path": ["Straße", {"Key": 412}], "none": None, "flag": True}
    for word in ("strasse", "key", "412", "true", "path"):
        assert mentions(said, word)
    assert not mentions(said, "null")
