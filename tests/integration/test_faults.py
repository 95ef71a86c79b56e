"""What breaks before, during or after the model's answer: one terminal frame, and all or nothing."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from random import Random
from uuid import uuid4

import psycopg
import pytest

from infrastructure.postgres import schema
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.asking import query
from tests.integration.saves import CuttingProxy
from tests.killing import all_can_go_on, judge, read_turns, talking, until_none_runs
from tests.openai_pieces import Cut, EndEarly, Piece, Status, StreamError, Text, call
from tests.openai_server import ChatRequest, OpenAIServer
from tests.opened import opened_payload
from tests.replaying import committed_part, read_log
from tests.serving import Client, Refused, Serving, SseFrame, frames_of, serving_reads

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

TERMINATE_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def retry(client: Client, turn_id: str) -> list[SseFrame]:
    """Retry a turn; no frames where it is refused because the turn still counts as running."""
    async with client.http.stream("POST", f"/v1/turns/{turn_id}/retry") as response:
        if response.status_code == 409:
            return []
        assert response.status_code == 200, await response.aread()
        return [frame async for frame in frames_of(response)]


async def retry_when_free(client: Client, turn_id: str) -> list[SseFrame]:
    """Retry as soon as the lease of a turn whose end nobody could store has run out."""
    async with asyncio.timeout(10):
        while not (frames := await retry(client, turn_id)):  # noqa: ASYNC110 (the database has no event)
            await asyncio.sleep(0.1)
        return frames


def assert_failed(frames: list[SseFrame], code: str, *, retryable: bool = True) -> None:
    """The stream ended once, with this code, and nothing in it claims to be stored."""
    assert [frame.is_final for frame in frames].count(True) == 1
    assert frames[-1].type == "turn.failed"
    assert (frames[-1].data["code"], frames[-1].data["retryable"]) == (code, retryable)
    assert not [frame for frame in frames if "position" in frame.data]


async def assert_kept(database_url: str, turn_id: str, content: str, state: str = "failed") -> None:
    """Nothing of the turn is in the log, and what the person sent is still there."""
    log = await asyncio.to_thread(read_log, database_url)
    assert [row for row in log if row.turn == turn_id] == []
    turn = (await asyncio.to_thread(read_turns, database_url))[turn_id]
    assert turn["state"] == state
    payload = await asyncio.to_thread(opened_payload, database_url, turn_id)
    assert content.encode() in payload


async def assert_stored_once(database_url: str, turn_id: str, frames: list[SseFrame]) -> None:
    """The turn is in the log, once, at the positions that its frames tell."""
    assert [frame.is_final for frame in frames].count(True) == 1
    assert frames[-1].type == "turn.committed"
    log = await asyncio.to_thread(read_log, database_url)
    stored = [(row.position, row.type, row.data) for row in log if row.turn == turn_id]
    told = [(frame.data["position"], frame.type, frame.data["data"]) for frame in committed_part(frames)[:-1]]
    assert stored == told
    assert len(told) == frames[-1].data["events"] > 0
    assert (await asyncio.to_thread(read_turns, database_url))[turn_id]["state"] == "committed"


# --- the model -------------------------------------------------------------------------------------

FAULTS: dict[str, list[Piece]] = {
    "before": [Status(500)],
    "before a word": [Cut()],
    "during the text": [Text("I begin"), Text(" an answer"), Cut()],
    "during a call": [Text("I call"), *call(0, "call_1", "read_file", '{"path"', 3), Cut()],
    "an error inside": [Text("I begin"), StreamError()],
    "without an end": [Text("I begin an answer that has no end"), EndEarly()],
}


@pytest.mark.may_block("the providers' library takes a second to import")
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_model_that_breaks_off_leaves_nothing_and_the_same_turn_can_be_retried(
    database_url: str, fault: str
) -> None:
    answers: Iterator[list[Piece]] = iter([FAULTS[fault], [Text("A whole answer.")]])

    def say_next(_: ChatRequest) -> list[Piece]:
        return next(answers)

    async with OpenAIServer(say_next) as openai, with_model(database_url, openai) as server:
        turn_id = str(uuid4())
        frames = await server.client.say("Tell me ✈", turn_id=turn_id)
        assert_failed(frames, "model_unavailable")
        await assert_kept(database_url, turn_id, "Tell me")
        frames = await retry(server.client, turn_id)
    assert frames[-2].data["data"]["content"] == "A whole answer."
    assert {frame.id.partition(".")[0] for frame in frames if frame.id} == {"2"}
    await assert_stored_once(database_url, turn_id, frames)


def with_model(database_url: str, openai: OpenAIServer) -> AbstractAsyncContextManager[Serving]:
    model = {"model": "openai:x", "model_base_url": openai.base_url, "model_api_key": "k"}
    return serving_reads(database_url, **model)


# --- the commit ------------------------------------------------------------------------------------

# At the insert, or as late as anything can fail: in the COMMIT itself.
BREAK = {
    "insert": "CREATE TRIGGER broken BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "commit": "CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION break_commit()",
    "closing the turn": "CREATE TRIGGER broken BEFORE UPDATE ON turns FOR EACH ROW"
    " WHEN (new.state = 'committed') EXECUTE FUNCTION break_commit()",
}
FUNCTION = (
    "CREATE FUNCTION break_commit() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = 'disk_full'; END $$"
)


@pytest.mark.parametrize("where", BREAK)
async def test_a_commit_that_the_database_refuses_leaves_nothing(database_url: str, where: str) -> None:
    async with serving_reads(database_url) as server:
        first = await server.client.say("hello")
        conversation_id = first[0].data["conversation_id"]
        await asyncio.to_thread(query, database_url, FUNCTION)
        await asyncio.to_thread(query, database_url, BREAK[where].replace("refuse_change", "break_commit"))
        turn_id = str(uuid4())
        frames = await server.client.say("read a.txt", conversation_id=conversation_id, turn_id=turn_id)
        assert_failed(frames, "store_unavailable")
        await assert_kept(database_url, turn_id, "read a.txt")
        table = "turns" if where == "closing the turn" else "log"
        await asyncio.to_thread(query, database_url, f"DROP TRIGGER broken ON {table}")
        frames = await retry(server.client, turn_id)
        await assert_stored_once(database_url, turn_id, frames)
        frames = await server.client.say("hello", conversation_id=conversation_id)
        assert frames[-1].type == "turn.committed"


async def test_a_statement_timeout_at_the_commit_leaves_nothing(database_url: str) -> None:
    turn_id = str(uuid4())
    async with serving_reads(database_url) as server:
        async with await psycopg.AsyncConnection.connect(database_url) as holder:
            await holder.execute("SELECT pg_advisory_xact_lock(append_lock())")
            frames = await server.client.say("hello", turn_id=turn_id)  # waits for the append's timeout
            assert_failed(frames, "store_unavailable")
        await assert_kept(database_url, turn_id, "hello")
        frames = await retry(server.client, turn_id)
    await assert_stored_once(database_url, turn_id, frames)


@contextmanager
def own_database(folder: Path) -> Iterator[tuple[EmbeddedPostgres, str]]:
    with EmbeddedPostgres(folder / "data", settings={"fsync": "off"}) as postgres:
        url = postgres.start()
        schema.migrate(url)
        yield postgres, url


@pytest.mark.may_block("starting the database's server blocks; nothing is measured meanwhile")
async def test_a_database_stopped_during_the_answer_fails_the_turn_and_it_can_be_retried(
    server_folder: Path,
) -> None:
    turn_id = str(uuid4())
    with own_database(server_folder) as (postgres, url):
        async with serving_reads(url, demo_delay_s=0.02, lease_s=1) as server:
            body = {"turn_id": turn_id, "message": {"type": "user_message", "content": "long 30"}}
            async with server.client.stream(body) as response:
                stream = frames_of(response)
                frames = [await anext(stream), await anext(stream)]
                await asyncio.to_thread(postgres.stop)
                frames += [frame async for frame in stream]
            assert_failed(frames, "store_unavailable")
            await assert_refused_while_gone(server)
            await asyncio.to_thread(postgres.start)
            frames = await retry_when_free(server.client, turn_id)
            await assert_stored_once(url, turn_id, frames)


async def assert_refused_while_gone(server: Serving) -> None:
    """A new message is refused before its stream opens, and the server says that it is not ready."""
    with pytest.raises(Refused) as refused:
        await server.client.say("hello")
    assert (refused.value.status, refused.value.code) == (503, "store_unavailable")
    assert (await server.client.http.get("/health/ready")).status_code == 503


async def test_connections_cut_again_and_again_lose_nothing_and_store_nothing_twice(
    database_url: str,
) -> None:
    async with serving_reads(database_url, lease_s=1, demo_delay_s=0.005) as server:
        async with talking(server.url, 12, Random(7)) as said:
            for _ in range(25):
                before = len(said.committed)
                await until(lambda: len(said.committed) > before)  # noqa: B023 (it is over before the next)
                await asyncio.sleep(0.15)
                await asyncio.to_thread(query, database_url, TERMINATE_ALL)
        await until_none_runs(database_url, 10)
        await asyncio.to_thread(judge, database_url, said)
        await all_can_go_on(server.url, said.conversations)
    assert len(said.committed) > 25
    assert said.counts["cut"] == 0, "a stream broke off although its server was alive"


async def test_a_turn_given_up_while_its_failure_is_being_stored_still_ends_its_stream(
    database_url: str,
) -> None:
    turn_id = str(uuid4())
    async with serving_reads(database_url, demo_delay_s=0.05) as server:
        async with await psycopg.AsyncConnection.connect(database_url) as holder:
            failing = asyncio.create_task(server.client.say("fail", turn_id=turn_id))
            await until(lambda: read_turns(database_url))
            await holder.execute("SELECT FROM turns WHERE id = %s FOR UPDATE", [turn_id])
            await until(lambda: query(database_url, WAITING_TO_FAIL))
            turn = server.house.running.get(turn_id)
            assert turn
            for _ in range(3):  # its lease is found lost, again and again
                server.house.running._tasks[turn].cancel()
                await asyncio.sleep(0.02)
        assert_failed(await asyncio.wait_for(failing, 10), "model_unavailable")
        await assert_kept(database_url, turn_id, "fail")


WAITING_TO_FAIL = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND query LIKE '%state = ''failed''%'"
)


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(found):  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.02)


# --- the acknowledgement ---------------------------------------------------------------------------


def once(direction: str, marker: bytes, verdict: str, proxy: CuttingProxy) -> Callable[[str, bytes], str]:
    """Give this verdict on the next piece with this marker, and let everything pass after it."""

    def judge_piece(at: str, piece: bytes) -> str:
        if at != direction or marker not in piece:
            return "pass"
        proxy.let_pass()
        return verdict

    return judge_piece


@pytest.mark.parametrize("content", ["hello", "three files", "plan a house"])
async def test_a_lost_acknowledgement_still_ends_in_one_committed_frame(
    database_url: str, content: str
) -> None:
    async with CuttingProxy(database_url) as proxy, serving_reads(proxy.url) as server:
        conversation_id = (await server.client.say("hello"))[0].data["conversation_id"]
        for number in range(3):
            # The answer of append_batch is the only one with a column of this name.
            proxy.verdict = once("out", b"statuses", "cut", proxy)
            turn_id = str(uuid4())
            frames = await server.client.say(content, conversation_id=conversation_id, turn_id=turn_id)
            assert proxy.cuts == number + 1
            await assert_stored_once(database_url, turn_id, frames)
            again = await server.client.say(content, conversation_id=conversation_id, turn_id=turn_id)
            await assert_stored_once(database_url, turn_id, again)


async def test_an_acknowledgement_nobody_could_get_is_told_by_the_turn(database_url: str) -> None:
    turn_id = str(uuid4())
    async with CuttingProxy(database_url) as proxy, serving_reads(proxy.url) as server:
        await server.client.say("hello")
        proxy.verdict = cut_all_from_the_acknowledgement_on()
        frames = await server.client.say("hello", turn_id=turn_id)
        assert_failed(frames, "store_unavailable")
        proxy.let_pass()
        assert (await server.client.http.get(f"/v1/turns/{turn_id}")).json()["state"] == "committed"
        await assert_stored_once(database_url, turn_id, await server.client.say("hello", turn_id=turn_id))


def cut_all_from_the_acknowledgement_on() -> Callable[[str, bytes], str]:
    seen: list[bytes] = []

    def judge_piece(at: str, piece: bytes) -> str:
        if at == "out" and b"statuses" in piece:
            seen.append(piece)
        return "cut" if at == "out" and seen else "pass"

    return judge_piece
