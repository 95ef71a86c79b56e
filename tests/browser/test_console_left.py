"""Conversations that are left while they speak, and those that begin where there was none."""

from tests.browser.chromium import Browser
from tests.browser.story import DRAFT, Console
from tests.serving import ServerProcess


def test_turns_that_run_in_more_conversations_than_a_browser_has_connections_leave_stop_alive(
    console: Console,
) -> None:
    page, addresses = console.page, list[str]()
    for number in range(7):
        if number:
            console.click("New conversation")
        console.say("slow 60")
        page.wait(f"({DRAFT} ?? '').includes('tick1')")
        addresses.append(page.run("location.hash"))
    assert len(set(addresses)) == 7
    console.click("Stop")
    console.wait("Stopped by local")
    console.wait_state("idle")
    page.run(f"location.hash = '{addresses[0]}'")  # it has gone on, and is heard again
    page.wait(f"({DRAFT} ?? '').startsWith('tick1')")
    console.click("Stop")
    console.wait("Stopped by local")
    console.wait_state("idle")
    assert page.problems == []


def test_a_conversation_that_begins_where_there_was_none_is_shown_and_watched(
    browser: Browser, server: ServerProcess
) -> None:
    console = Console(browser.page(), server.url)
    console.open("/#/c/not-yet")
    console.page.wait_text("Not found", "#link")
    console.say("help")
    console.wait("demo model")
    console.wait_state("idle")
    console.page.wait_text("Live", "#link")
    console.say("coder: write a.txt")
    console.wait("needs your decision")
    assert "no conversation" not in console.page.run("document.querySelector('#problem').textContent")
    assert [one for one in console.page.problems if "404" not in one] == []
