"""A model's words come to who watches through another process soon after they were said."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import pytest

from tests.openai_server import OpenAIServer
from tests.serving import ServerProcess
from tests.word_lag import Speaker, lags_of_words

pytestmark = pytest.mark.no_cover  # the server is another process: its lines are not seen

# A quiet machine takes a tenth of it (`python -m tests.benchmarks words`, where the target is 0.15).
PATIENCE_S = 1.0
TURNS, WORDS = 3, 40


async def test_words_come_through_another_process_while_they_are_said(
    database_url: str, tmp_path: Path
) -> None:
    speaker = Speaker(WORDS, 0.05)
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(OpenAIServer(speaker.script))
        model = {"model": "openai:x", "model_base_url": provider.base_url, "model_api_key": "sk-none"}
        nodes = [ServerProcess(tmp_path, database_url=database_url, **model) for _ in range(2)]
        for node in nodes:
            stack.callback(node.kill)
        await asyncio.gather(*(asyncio.to_thread(node.start, 0, 60) for node in nodes))
        lags = await lags_of_words(speaker, nodes[0].url, nodes[1].url, TURNS)
    assert len(lags.here) == TURNS * WORDS
    for elsewhere in (lags.there, lags.feed):
        assert len(elsewhere) > TURNS * WORDS / 2  # the last ones may vanish: the commit overtakes them
        assert median(elsewhere) < PATIENCE_S
