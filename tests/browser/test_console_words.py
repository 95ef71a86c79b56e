"""What the page offers to try is what the demo model understands, and all of it."""

import json
import re

from api.console import FOLDER
from application.language_model import ModelRequest, Said
from infrastructure.models.demo_words import HELP, by_words

PANEL = (FOLDER / "panels.js").read_text()


def _offered() -> list[str]:
    listed = re.search(r"export const TRY = \[(.*?)\n\];", PANEL, re.DOTALL)
    assert listed
    return [
        word
        for words in re.findall(r"(\[(?:\"[^\"]*\"(?:, )?)+\])\]", listed[1])
        for word in json.loads(words)
    ]


def _request(text: str) -> ModelRequest:
    return ModelRequest("demo", "orchestrator", "", [Said("user", text)])


def test_every_word_offered_is_one_the_demo_model_understands() -> None:
    offered = _offered()
    assert len(offered) > 15
    for text in offered:
        if text != "hello":  # talk for the sake of talk
            assert "Say help to see" not in by_words(_request(text), text).text, text


def test_every_line_of_the_demo_models_help_is_offered() -> None:
    firsts = {text.split()[0].rstrip(":") for text in _offered()}
    for line in HELP.splitlines()[1:]:
        assert firsts & set(re.findall(r"[a-z]+", line)), line
