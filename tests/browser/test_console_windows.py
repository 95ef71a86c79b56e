"""Several windows over one conversation: those that come later, hear nothing for a while, or are hidden."""

import httpx

from tests.browser.chromium import Browser
from tests.browser.story import DRAFT, LONG, Console, newest_words, speaking
from tests.serving import ServerProcess

# A feed that gives events and never a word of a turn; and one that gives nothing at all.
QUIET = """
  const listen = EventSource.prototype.addEventListener;
  EventSource.prototype.addEventListener = function (type, act) {
    if (!type.startsWith('turn.')) listen.call(this, type, act);
  };"""
DEAF = "window.EventSource = class { addEventListener() {} close() {} };"


def _opened_too(console: Console, browser: Browser, script: str) -> Console:
    """Open the same conversation in another window, behind this script."""
    other = Console(browser.page(), console.url)
    other.page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    other.open("/" + console.page.run("location.hash"))
    return other


def test_a_window_that_comes_later_hears_the_whole_answer_and_knows_of_a_silent_one(
    browser: Browser, server: ServerProcess
) -> None:
    first, second = Console(browser.page(), server.url), Console(browser.page(), server.url)
    first.open()
    first.say("help")
    first.wait("demo model")
    first.wait_state("idle")
    first.say("long 300")
    speaking(first.page, "word50")
    second.open("/" + first.page.run("location.hash"))
    speaking(second.page, "word80")
    assert second.page.run(DRAFT).split()[:80] == LONG[:80]
    second.wait_state("running")
    for console in (first, second):
        console.wait_state("idle")
        assert newest_words(console) == LONG
    assert first.transcript() == second.transcript()
    assert first.events() == second.events()
    first.say("slow 300")
    speaking(first.page, "tick1")
    quiet = _opened_too(first, browser, QUIET)
    quiet.wait_state("running")
    quiet.wait("long 300")
    deaf = _opened_too(first, browser, DEAF)
    deaf.say("and mine")
    deaf.page.wait_text("is still running", "#problem")
    deaf.wait_state("running")
    assert deaf.page.run("document.querySelector('#say').value") == "and mine"
    deaf.click("Stop")
    for console in (first, second, quiet):
        console.wait("Stopped by local")
        console.wait_state("idle")
    assert first.page.problems == second.page.problems == quiet.page.problems == []


def test_a_hidden_window_gives_its_connection_back_and_misses_nothing(
    browser: Browser, server: ServerProcess
) -> None:
    page = browser.page()
    console = Console(page, server.url)
    # The minute until a window counts as hidden passes at once, and the test says when it is hidden.
    hiding = """
      const wait = setTimeout;
      window.setTimeout = (act, ms, ...more) => wait(act, ms === 60000 ? 10 : ms, ...more);
      let isHidden = false;
      Object.defineProperty(document, 'hidden', {get: () => isHidden});
      window.hide = (value) => { isHidden = value; document.dispatchEvent(new Event('visibilitychange')); };
    """
    page.call("Page.addScriptToEvaluateOnNewDocument", source=hiding)
    console.open()
    console.say("help")
    console.wait("demo model")
    console.wait_state("idle")
    page.run("hide(true)")
    page.wait_text("Reconnecting", "#link")
    body = {
        "conversation_id": page.run("location.hash.slice(4)"),
        "message": {"type": "user_message", "content": "said elsewhere"},
    }
    assert httpx.post(f"{server.url}/v1/messages/stream", json=body, verify=False).status_code == 200
    assert "said elsewhere" not in " ".join(console.transcript())
    page.run("hide(false)")
    page.wait_text("Live", "#link")
    console.wait("You said: said elsewhere")
    assert [position for position, _ in console.events()] == list(range(1, 9))
    assert page.problems == []
