"""What a person does in the console, in words of the test."""

import json
import re
from typing import Any

from tests.browser.chromium import Page

DRAFT = "document.querySelector('.draft .text')?.innerText"
WORD = re.compile(r"word\d+")
LONG = [f"word{number}" for number in range(1, 301)]


class Console:
    """The console in one page of a browser."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, path: str = "/") -> None:
        self.page.go(self.url + path)
        self.page.wait("document.querySelector('#agent-name').textContent !== '…'")

    def say(self, text: str) -> None:
        self.page.wait("document.querySelector('#send').checkVisibility()")
        self.page.click("#say")
        self.page.write(text)
        self.page.press("Enter")

    def click(self, text: str) -> None:
        """Press the newest button with this text."""
        self.page.click("button", text)

    def fill(self, text: str) -> None:
        """Write over the field of the form that was opened last."""
        self.page.wait("document.activeElement.matches('#transcript textarea')")
        self.page.run("document.activeElement.select()")
        self.page.write(text)

    def answer(self, result: str) -> None:
        """Send the result of the newest call that waits for one."""
        self.click("Send result…")
        self.fill(result)
        self.click("Send result")

    def wait(self, *texts: str) -> None:
        for text in texts:
            self.page.wait_text(text)

    def wait_state(self, state: str, agent: str | None = None) -> None:
        self.page.wait(f"document.querySelector('#state').textContent === {json.dumps(state)}")
        if agent:
            self.page.wait(f"document.querySelector('#agent-name').textContent === {json.dumps(agent)}")

    def transcript(self) -> list[str]:
        """Return what was said: `who: text`, notes, and cards as their head and status."""
        found: list[str] = self.page.run(
            """[...document.querySelectorAll('#transcript > li')].map((entry) => {
              const text = (selector) => entry.querySelector(selector)?.innerText.trim();
              if (entry.matches('.message')) return `${text('.who')}: ${text('.text')}`;
              if (entry.matches('.card')) return `[${text('.tool, strong')}: ${text('.chip')}]`;
              return entry.innerText.trim();
            })"""
        )
        return found

    def events(self) -> list[Any]:
        """Return the timeline: position and name of each event."""
        found: list[Any] = self.page.run(
            """[...document.querySelectorAll('#events button')].map((one) =>
              [Number(one.querySelector('.at-position').innerText.slice(1)),
               one.querySelector('.name').innerText])"""
        )
        return found


def speaking(page: Page, word: str) -> None:
    """Wait until this word of an answer was said."""
    page.wait(f"({DRAFT} ?? '').includes('{word} ')")


def newest_words(console: Console) -> list[str]:
    """Return the words of the newest answer."""
    return WORD.findall(console.transcript()[-1])
