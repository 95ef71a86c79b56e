"""Frames and feeds on the wire: one line of UTF-8 each, whatever an old log holds."""

import json
from collections.abc import Callable

import pytest

from api import feeds, origin, sse
from application.frames import Frame
from application.subscription import FeedItem

BODY = {"data": {"detail": "The agent ask has no tool a\ud800b.", "said": "\u2028é\N{GRINNING FACE}"}}


@pytest.mark.parametrize(
    "send",
    [
        lambda: sse.encoded(Frame("x", 1, 1, BODY)),
        lambda: feeds.encoded(FeedItem("x", 7, BODY)),
        lambda: origin._encoded([BODY]),
    ],
    ids=["turn", "feed", "origin"],
)
def test_half_a_surrogate_pair_that_is_stored_is_sent_escaped(send: Callable[[], bytes]) -> None:
    (data,) = [line for line in send().decode().splitlines() if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: ")) == BODY


def test_what_every_reader_can_read_is_sent_as_it_is_but_for_ends_of_lines() -> None:
    assert sse.one_line({"a": "é\N{GRINNING FACE}\u2028\u0085"}).decode() == (
        '{"a":"é\N{GRINNING FACE}\\u2028\\u0085"}'
    )
