"""The page is for everybody: by keyboard, by ear, in the dark, and on a phone."""

from typing import Any

import pytest

from tests.browser.chromium import DESK, PHONE, Browser, Page
from tests.browser.story import Console
from tests.serving import ServerProcess

CONTROLS = {
    "button",
    "textbox",
    "searchbox",
    "link",
    "radio",
    "tab",
    "checkbox",
    "combobox",
    "progressbar",
    "dialog",
}

# Every text that is shown, with its contrast to what is painted behind it (WCAG 2, 1.4.3).
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
    return [255, 255, 255];
  };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || e.closest('script, style, noscript, .vh, .skip') || !e.checkVisibility()) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${e.tagName}.${e.className}: ${texts.currentNode.data.trim().slice(0, 40)}`);
  }
  return [...new Set(poor)];
})()"""  # noqa: E501

# Every control that is shown but reaches beyond the window's side.
CUT_OFF = """[...document.querySelectorAll('button, input, textarea')].filter((one) => one.checkVisibility())
  .filter((one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.innerText || one.id)"""

# What a form says and offers below its field, where one has to scroll to see it.
HIDDEN = """[...document.querySelectorAll('#transcript form .problem, #transcript form button')]
  .filter((one) => one.getBoundingClientRect().bottom > document.querySelector('#scroll').getBoundingClientRect().bottom)
  .map((one) => one.innerText)"""  # noqa: E501


def _tree(page: Page) -> list[dict[str, Any]]:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    return [
        {"role": node["role"]["value"], "name": node.get("name", {}).get("value", "")}
        for node in nodes
        if not node.get("ignored")
    ]


def _busy(browser: Browser, server: ServerProcess) -> Console:
    """Return a console that shows a bit of everything."""
    console = Console(browser.page(), server.url)
    console.open()
    console.say("coder: both")
    console.wait("I call write_file 2 times")
    console.wait_state("awaiting decision")
    console.click("Reject…")
    console.fill("no")
    console.click("Reject")
    console.wait("rejected by local")
    console.say("plan a garden")
    console.wait("Plan, version 1")
    console.wait_state("plan in review")
    console.say("fail")
    console.wait("model_unavailable")
    console.say("write notes.md")
    console.wait("I call write_file.")
    console.wait_state("awaiting decision")
    console.click("Approve")
    console.wait("waits for its result")
    console.wait_state("awaiting tool results")
    console.click("Send result…")
    console.page.run("document.querySelector('#events button').click()")
    return console


def test_every_control_has_a_name_and_the_page_its_landmarks(browser: Browser, server: ServerProcess) -> None:
    console = _busy(browser, server)
    nodes = _tree(console.page)
    assert [node for node in nodes if node["role"] in CONTROLS and not node["name"].strip()] == []
    roles = [node["role"] for node in nodes]
    for landmark in ("banner", "navigation", "main", "complementary"):
        assert roles.count(landmark) == 1, landmark
    assert console.page.run("document.querySelectorAll('h1').length") == 1
    assert console.page.run("document.documentElement.lang") == "en"
    ids = console.page.run("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    console.page.click("#agent")
    assert [n for n in _tree(console.page) if n["role"] in CONTROLS and not n["name"].strip()] == []


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_every_text_is_readable_in_both_colours(
    browser: Browser, server: ServerProcess, is_dark: bool
) -> None:
    console = _busy(browser, server)
    console.page.resize(DESK, is_dark=is_dark)
    assert console.page.run(CONTRAST) == []
    console.click("What can I try?")
    assert console.page.run(CONTRAST) == []
    console.page.click("#agent")
    assert console.page.run(CONTRAST) == []
    console.page.press("Escape")
    console.page.click("#theme")
    other = console.page.run("getComputedStyle(document.documentElement).colorScheme")
    assert other == ("light" if is_dark else "dark")
    assert console.page.run(CONTRAST) == []
    console.page.reload()
    assert console.page.run("getComputedStyle(document.documentElement).colorScheme") == other


def test_a_phone_shows_everything_without_scrolling_sideways(browser: Browser, server: ServerProcess) -> None:
    console = _busy(browser, server)
    page = console.page
    page.resize(PHONE)
    wide = "['html', '#scroll'].some((one) => document.querySelector(one).scrollWidth > innerWidth)"
    assert page.run(wide) is False
    assert page.run("document.documentElement.scrollHeight <= innerHeight") is True
    assert page.run(CUT_OFF) == []
    assert page.texts("#list") == page.texts("#side") == []
    page.click("#open-list")
    assert "New conversation" in page.texts("#list")[0]
    assert page.run(wide) is False
    page.press("Escape")
    assert page.texts("#list") == []
    assert page.run("document.activeElement.id") == "open-list"
    page.click("#open-side")
    assert "tool call requested" in page.texts("#side")[0]
    assert page.run(wide) is False
    page.click("#open-side")
    assert page.texts("#side") == []
    console.say("hello")
    console.wait("You said: hello")
    small = page.run(
        "[...document.querySelectorAll('button')].filter((one) => one.checkVisibility())"
        ".filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 24).map((one) => one.innerText)"
    )
    assert small == []  # WCAG 2.2, 2.5.8


def test_a_phone_shows_what_is_wrong_with_a_form_and_its_buttons(console: Console) -> None:
    page = console.page
    page.resize(PHONE)
    console.say("coder: write hello.txt")
    console.wait_state("awaiting decision")
    console.click("Edit…")
    console.fill('{"path": ')
    console.click("Approve with these")
    console.wait("This is not JSON")
    assert page.run("document.activeElement.matches('textarea[aria-invalid]')") is True
    assert page.run(HIDDEN) == []


def test_a_conversation_can_be_led_with_the_keyboard_alone(console: Console) -> None:
    page = console.page
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    assert page.run("document.activeElement.id") == "say"
    page.write("coder: write hello.txt")
    page.press("Enter", shift=True)
    page.write("in the folder")
    assert page.run("document.querySelector('#say').value") == "coder: write hello.txt\nin the folder"
    page.press("Enter")
    console.wait("I call write_file.")
    console.wait_state("awaiting decision")
    address = page.run("location.href")
    page.run("document.querySelector('.skip').click()")
    assert (page.run("location.href"), page.run("document.activeElement.id")) == (address, "say")
    page.run("document.querySelector('#scroll').focus()")
    _tab_to(page, "Approve")
    page.press("Enter")
    console.wait_state("awaiting tool results")  # the approval is a turn, and takes as long as one
    _tab_to(page, "Send result…")
    page.press("Enter")
    page.press("Escape")
    assert page.run("document.activeElement.innerText") == "Send result…"
    page.press("Enter")
    _tab_to(page, "Send result")
    page.press("Enter")
    console.wait("write_file is done")
    page.wait("document.querySelector('#announcer').textContent.includes('write_file is done')")
    assert page.problems == []


def _tab_to(page: Page, text: str) -> None:
    """Press Tab until the focus is there; every stop on the way shows that it has it."""
    for _ in range(60):
        page.press("Tab")
        shown, width = page.run(
            "((one) => [one.innerText?.trim(), getComputedStyle(one).outlineWidth])(document.activeElement)"
        )
        assert width != "0px", shown
        if shown == text:
            return
    raise AssertionError(f"Tab never came to {text}")


def test_nothing_moves_what_is_being_read(browser: Browser, server: ServerProcess) -> None:
    page = browser.page()
    console = Console(page, server.url)
    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.moved = 0; new PerformanceObserver((list) => { for (const one of list.getEntries())"
        " moved += one.value; }).observe({type: 'layout-shift', buffered: true});",
    )
    console.open()
    console.say("coder: write hello.txt")
    console.wait("I call write_file.")
    console.wait_state("awaiting decision")
    assert page.run("moved") < 0.1  # what browsers call good


def test_a_form_at_the_end_of_the_transcript_is_seen_whole(browser: Browser, server: ServerProcess) -> None:
    page = browser.page(PHONE)
    console = Console(page, server.url)
    console.open()
    console.say("coder: three files")
    console.wait("I call write_file 3 times.")
    console.wait_state("awaiting decision")
    console.click("Reject…")
    page.wait("document.activeElement.matches('#transcript textarea')")
    page.wait(
        "document.querySelector('#transcript form').getBoundingClientRect().bottom"
        " <= document.querySelector('#scroll').getBoundingClientRect().bottom"
    )


def test_whoever_could_drop_what_is_open_is_told_so_before(console: Console) -> None:
    hint = "document.querySelector('#drops').checkVisibility()"
    assert not console.page.run(hint)
    console.say("coder: read README.md")
    console.wait_state("awaiting tool results")
    console.page.wait(hint)
    console.answer("# Read me")
    console.wait_state("idle")
    console.page.wait(f"!{hint}")


def test_a_list_with_nothing_in_it_says_so(console: Console) -> None:
    console.page.wait_text("No conversations yet.", "#list")
    console.say("hello")
    console.wait_state("idle")
    assert "No conversations yet." not in console.page.texts("#list p")
    console.page.run("document.querySelector('#search').focus()")
    console.page.write("goodbye")
    console.page.wait_text("No title has these words.", "#list")
