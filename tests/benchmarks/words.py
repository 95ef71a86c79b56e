"""How late a model's words come to who watches a turn through another process than the one that runs it.

Two servers as users run them, one database. Turns run side by side in one of them, twenty words a second
each; each is read from its own stream, through the other process as a turn, and there as a conversation's
feed. The time is from the word's leaving the provider (in the process of the readers, so one clock) to its
frame at the client.
"""

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.openai_server import OpenAIServer
from tests.serving import ServerProcess
from tests.word_lag import Lags, Speaker, lags_of_words

Row = tuple[str, str, str, str]
PAUSE_S = 0.05


async def measured(url: str, folder: Path, turns: int, words: int) -> Lags:
    speaker = Speaker(words, PAUSE_S)
    async with OpenAIServer(speaker.script) as provider:
        model = {"model": "openai:x", "model_base_url": provider.base_url, "model_api_key": "sk-none"}
        with ExitStack() as stack:
            here, there = (
                stack.enter_context(ServerProcess(folder, database_url=url, **model)) for _ in range(2)
            )
            return await lags_of_words(speaker, here.url, there.url, turns)


def row(what: str, lags: list[float], target: str) -> list[Row]:
    milliseconds = [lag * 1000 for lag in lags]
    p99 = quantiles(milliseconds, n=100)[98]
    return [(f"{what}, median ms", f"p99 {p99:.0f} ms", f"{median(milliseconds):.1f}", target)]


def run(turns: int = 10, words: int = 200) -> list[Row]:
    """Run on a database of its own; returns the table's rows: what, figure, ratio, target."""
    with (
        tempfile.TemporaryDirectory(prefix="minutebook-bench-") as name,
        EmbeddedPostgres(Path(name) / "store") as postgres,
    ):
        url = postgres.start()
        schema.migrate(url)
        lags = asyncio.run(measured(url, Path(name), turns, words))
    return [
        *row("its own stream", lags.here, ""),
        *row("the turn, through another process", lags.there, "under 150"),
        *row("the conversation's feed, through another process", lags.feed, "under 150"),
    ]


if __name__ == "__main__":
    for what, figure, ratio, target in run():
        print(f"{what:52} {figure:16} {ratio:>7}  {target}")
