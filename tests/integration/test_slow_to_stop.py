"""A model that takes its time to stop: it is told so again meanwhile, and nothing breaks by that."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from api.bootstrap.house import open_house
from api.settings import Settings
from application.language_model import Finished, ModelChunk, ModelRequest, TextDelta
from application.protocol import parsed_request
from application.running import KEEP_S
from application.turns import TurnService

ASKED = {"turn_id": "t-1", "message": {"type": "user_message", "content": "hi"}}


class SlowToStop:
    """A model that speaks for ever and takes much longer to stop than it takes to be told again."""

    def __init__(self) -> None:
        self.is_stopping = asyncio.Event()

    async def answer(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        yield TextDelta("As I was saying")
        try:
            await asyncio.Event().wait()
        finally:
            self.is_stopping.set()
            await asyncio.sleep(4 * KEEP_S)
        yield Finished("stop")


async def test_a_turn_told_to_stop_again_and_again_stops_once_and_its_process_keeps_its_leases(
    database_url: str, tmp_path: Path
) -> None:
    model = SlowToStop()
    settings = Settings(_env_file=None, database_url=database_url, data=tmp_path)
    async with open_house(settings, database_url, model) as house:
        turns: TurnService = house.app.state.turns
        await turns.submit(parsed_request(ASKED, 1000), "local")
        first = asyncio.create_task(turns.cancel("t-1", "local"))
        await model.is_stopping.wait()
        second = await turns.cancel("t-1", "local")
        assert (await first).state == second.state == "committed"
        keeper = house.running._keeper
        assert keeper
        assert not keeper.done()
