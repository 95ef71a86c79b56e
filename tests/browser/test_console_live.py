"""What happens while an answer is being said: stop, reload, a server that goes away."""

import re

import httpx
import pytest

from tests.browser.chromium import Browser
from tests.browser.story import DRAFT, LONG, WORD, Console, newest_words, speaking
from tests.integration.test_unreadable import CHANGED
from tests.serving import ServerProcess
from tests.tampering import run


def test_an_answer_streams_and_a_stopped_one_keeps_what_was_said(console: Console) -> None:
    page = console.page
    console.say("long 300")
    speaking(page, "word20")
    console.wait_state("running")
    assert "not stored yet" in page.run("document.querySelector('.from-user').innerText")
    console.click("Stop")
    console.wait("Stopped by local", "stopped here")
    console.wait_state("idle")
    before = console.transcript()
    said = WORD.findall(before[-2])
    assert 20 <= len(said) < 300
    assert said == LONG[: len(said)]
    page.reload()
    console.wait("Stopped by local")
    assert console.transcript() == before
    console.say("slow 20")
    page.wait(f"({DRAFT} ?? '').includes('tick1')")
    page.run("document.querySelector('#say').focus()")
    page.press("Escape")
    console.wait_state("idle")
    assert page.problems == []


def test_a_reload_in_the_middle_of_an_answer_loses_no_word(console: Console) -> None:
    page = console.page
    console.say("long 300")
    speaking(page, "word30")
    page.reload()  # the first turn of a conversation that is not stored yet
    speaking(page, "word60")
    assert page.run(DRAFT).split()[:60] == LONG[:60]
    console.wait_state("idle")
    assert newest_words(console) == LONG
    console.say("long 300")
    for word in ("word40", "word90", "word150"):
        speaking(page, word)
        assert page.run(DRAFT).split()[:40] == LONG[:40]
        page.reload()
    console.wait_state("idle")
    page.wait("document.querySelectorAll('.from-agent').length === 2")
    assert newest_words(console) == LONG
    assert len(page.run("document.querySelectorAll('.from-user').length") * "x") == 2
    assert page.problems == []


def test_a_server_that_dies_in_the_middle_leaves_nothing_half_and_the_turn_is_tried_again(
    console: Console, server: ServerProcess
) -> None:
    page = console.page
    console.say("help")
    console.wait("demo model")
    console.wait_state("idle")
    before, events = console.transcript(), console.events()
    port = int(server.url.rpartition(":")[2])
    console.say("long 300")
    speaking(page, "word30")
    server.kill()
    page.wait_text("Reconnecting", "#link")
    server.start(port)
    page.wait_text("Live", "#link", 30)
    console.wait("failed, nothing was changed")
    assert console.events() == events
    assert console.transcript()[: len(before)] == before
    page.reload()
    console.wait("failed, nothing was changed", "long 300")
    console.click("Try again")
    speaking(page, "word100")
    console.wait_state("idle")
    assert newest_words(console) == LONG, console.transcript()[-4:]
    assert [line for line in console.transcript() if line == "local: long 300"] == ["local: long 300"]
    # The browser says that there was no server for a while; nothing else.
    other = [
        one
        for one in page.problems
        if not re.search("ERR_(CONNECTION_REFUSED|CONNECTION_RESET|INCOMPLETE_CHUNKED|EMPTY_RESPONSE)", one)
    ]
    assert other == []


def test_a_server_that_restarts_kindly_is_found_again_without_a_gap(
    console: Console, server: ServerProcess
) -> None:
    page = console.page
    console.say("help")
    console.wait_state("idle")
    console.wait("demo model")
    port = int(server.url.rpartition(":")[2])
    server.stop()
    page.wait_text("Reconnecting", "#link")
    page.run("window.dispatchEvent(new Event('focus'))")  # it looks for the list, in vain
    console.say("read notes.txt")
    server.start(port)
    page.wait_text("Live", "#link", 30)
    assert page.texts("#conversations .name") == ["help"]
    console.wait("read_file", "waits for its result")
    console.answer("notes")
    console.wait("read_file is done")
    console.wait_state("idle")
    positions = [position for position, _ in console.events()]
    assert positions == list(range(1, len(positions) + 1))
    assert "read notes.txt" in " ".join(console.transcript())


def test_a_failed_turn_says_why_and_can_be_tried_again_or_dismissed(console: Console) -> None:
    page = console.page
    console.say("help")
    console.wait("demo model")
    console.wait_state("idle")
    before = console.transcript()
    console.say("fail")
    console.wait("model_unavailable", "User message failed, nothing was changed")
    page.run("document.querySelector('.failure').isOld = true")
    console.click("Try again")
    page.wait("document.querySelector('.failure') && !document.querySelector('.failure').isOld")
    console.wait("model_unavailable")
    console.click("Dismiss")
    page.wait("!document.querySelector('.failure')")
    assert console.transcript() == before
    assert page.problems == []


def test_one_click_on_an_event_shows_it_and_the_state_at_that_point(console: Console) -> None:
    page = console.page
    console.say("coder: write hello.txt")
    console.wait("needs your decision")
    console.click("Approve")
    console.answer("written")
    console.wait("write_file is done")
    console.wait_state("idle")
    names = [name for _, name in console.events()]
    for name, state in (
        ("tool call requested", "awaiting decision"),
        ("tool call approved", "awaiting tool results"),
        ("tool result received", "idle"),
    ):
        page.run(f"document.querySelectorAll('#events button')[{names.index(name)}].click()")
        facts = page.run("document.querySelector('#detail dl').innerText").split("\n")
        assert facts[facts.index("State") + 1] == state, facts
        shown = page.run("JSON.parse(document.querySelector('#detail pre').textContent)")
        assert shown["type"] == f"conversation.{name.replace(' ', '_')}"
        assert shown["position"] == console.events()[names.index(name)][0]
    assert page.problems == []


@pytest.mark.parametrize("name", ["nothing-here", "%E0%A4%A"])
def test_an_address_without_a_conversation_says_so(
    browser: Browser, server: ServerProcess, name: str
) -> None:
    page = browser.page()
    console = Console(page, server.url)
    console.open(f"/#/c/{name}")
    page.wait_text("There is no conversation with this id.", "#problem")
    page.wait_text("Not found", "#link")
    page.wait_text("No such conversation", "#title")
    console.click("New conversation")
    console.say("help")
    console.wait("demo model")
    console.wait_state("idle")
    page.run("history.go(-2)")
    page.wait_text("There is no conversation with this id.", "#problem")
    page.run("history.go(2)")
    console.wait("demo model")


def test_a_conversation_that_is_erased_under_the_page_says_so_and_takes_no_more(
    console: Console, server: ServerProcess
) -> None:
    page = console.page
    console.say("read secrets.txt")
    console.wait("read_file", "waits for its result")
    conversation = page.run("location.hash").rpartition("/")[2].lstrip("#")
    answer = httpx.post(
        f"{server.url}/v1/conversations/{conversation}/erase", json={"reason": "asked for"}, verify=False
    )
    assert answer.status_code == 200, answer.text
    for _ in ("live", "after a reload"):
        console.wait("The contents were erased by local: asked for")
        console.wait_state("erased")
        page.wait("!document.body.innerText.includes('secrets')")
        assert page.run("['say', 'send', 'agent'].every((id) => document.getElementById(id).disabled)")
        page.reload()
    assert page.problems == []


def test_an_event_that_cannot_be_read_is_said_so_beside_all_others(
    console: Console, database_url: str
) -> None:
    console.say("help")
    console.wait("demo model")
    console.wait_state("idle")
    run(database_url, CHANGED)
    console.page.reload()
    console.wait("Event 3 cannot be read", "demo model")
    assert len(console.events()) == 5
    assert console.page.problems == []
