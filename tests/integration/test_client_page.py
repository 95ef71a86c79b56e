"""The clients of the page, run as they stand there, behind proxies that cut."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.cutting import cutting_proxy
from tests.integration.client_helpers import CutModel, check_ids, stored
from tests.integration.streams import in_turn, steered, until
from tests.pages import blocks, page
from tests.replaying import read_log
from tests.serving import REPOSITORY, serving

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not


def example(name: str, folder: Path) -> Path:
    (block, *_) = blocks(page("client.md").partition(f"<!-- {name} -->")[2])
    (folder / name).write_text(block.text, encoding="utf-8")
    return folder / name


async def output_of(*command: str, url: str) -> str:
    env = {**os.environ, "SERVER_URL": url, "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return out.decode()


async def test_the_python_of_the_page_runs_behind_a_proxy_that_cuts(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server, cutting_proxy(server.url, frames=2) as proxy:
        said = await output_of(sys.executable, str(example("talk.py", tmp_path)), url=proxy.url)
    events = [line for line in said.splitlines() if " conversation." in line or " agent." in line]
    log = await asyncio.to_thread(read_log, database_url)
    types = [f"{row.position} {row.type}" for row in log]
    assert events == types[: len(events)]
    assert events[-1].endswith("conversation.tool_result_received")


TALK = """
import { send, watch } from "./minutebook.mjs";
const server = process.env.SERVER_URL, said = [], stored = [];
let last;
const message = { type: "user_message", content: "long 30" };
for await (const frame of send(server, message, { conversation_id: "c" })) {
  said.push(frame.id); last = frame;
}
for await (const frame of watch(server, "c")) {
  if (frame.position) stored.push(frame.position);
  if (frame.position === last.last_position) break;
}
let code;
try { for await (const _ of watch(server, "nobody")); } catch (problem) { code = problem.code; }
console.log(said.join(" ")); console.log(stored.join(" ")); console.log(last.type, code);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_javascript_of_the_page_resumes_behind_a_proxy_that_cuts(
    database_url: str, tmp_path: Path
) -> None:
    source = example("minutebook.mjs", tmp_path)
    assert len(source.read_text().splitlines()) <= 40
    (tmp_path / "talk.mjs").write_text(TALK)
    model = CutModel()
    async with (
        steered(database_url, in_turn(model.pieces())) as (server, _),
        cutting_proxy(server.url, frames=4) as proxy,
    ):
        model.proxy = proxy
        output = await output_of("node", str(tmp_path / "talk.mjs"), url=proxy.url)
        said, positions, end = output.splitlines()
        assert proxy.cuts > 5
    check_ids(said.split())
    assert [int(one) for one in positions.split()] == await stored(database_url)
    assert end == "turn.committed conversation_not_found"


LISTEN = """
import { watch } from "./minutebook.mjs";
const seen = [];
for await (const frame of watch(process.env.SERVER_URL, "c")) {
  if (!["turn.failed", "conversation.assistant_message_sent"].includes(frame.type)) continue;
  seen.push(frame.type);
  if (seen.length === 3) break;
}
console.log(seen.join(" "));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_javascript_of_the_page_watches_on_behind_a_failed_turn_and_leaves_when_it_is_told(
    database_url: str, tmp_path: Path
) -> None:
    example("minutebook.mjs", tmp_path)
    (tmp_path / "listen.mjs").write_text(LISTEN)
    async with serving(database_url) as server:
        await server.client.say("hello", conversation_id="c")
        listening = asyncio.create_task(output_of("node", str(tmp_path / "listen.mjs"), url=server.url))
        await until(lambda: server.house.live.has_readers, 60)
        await server.client.say("fail", conversation_id="c")
        await server.client.say("hello", conversation_id="c")
        said = "conversation.assistant_message_sent"
        assert (await listening).split() == [said, "turn.failed", said]
        await until(lambda: not server.house.live.has_readers, 60)
