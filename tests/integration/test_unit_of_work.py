"""The unit of work on a real PostgreSQL: both aggregates and the turn's row, all or nothing, once."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from application.errors import ConflictError, StoreUnavailableError, TurnLostError
from application.ports import Closing, Committed, TurnRow
from domain.aggregate import By
from domain.conversation import Conversation
from domain.errors import ConversationNotFoundError, MinutebookError
from infrastructure.postgres.appender import Appender
from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.log import PostgresLog
from infrastructure.postgres.mapper import MinutesMapper
from infrastructure.postgres.pool import Pool, create_pool, open_pool
from infrastructure.postgres.schema import migrate
from infrastructure.postgres.turns import PostgresTurns
from infrastructure.postgres.unit_of_work import PostgresUnitOfWork, UnitOfWorkOverError
from tests.integration.saves import CuttingProxy, appending
from tests.integration.turn_helpers import accepted, asked, execute, expire

MAPPER = MinutesMapper()
CALL = {
    "model_call_id": "call_0",
    "tool": "book",
    "arguments": {"seats": [1, 2]},
    "agent": "coder",
    "requires_decision": True,
    "rule": "bookings",
}


class Store:
    """One node: its pool, appender, turns and units of work."""

    def __init__(self, pool: Pool, appender: Appender, node: str = "node-1") -> None:
        self.pool, self.appender, self.node = pool, appender, node
        self.turns = PostgresTurns(pool, node, 30.0)
        self.log = PostgresLog(pool, MAPPER.to_logged)

    def unit(self, turn: TurnRow | str, conversation_id: str = "c1", **sizes: int) -> PostgresUnitOfWork:
        turn_id = turn if isinstance(turn, str) else turn.turn_id
        return PostgresUnitOfWork(
            conversation_id, turn_id, self.node, self.appender, self.pool, MAPPER, **sizes
        )

    async def turn(self, conversation_id: str = "c1") -> TurnRow:
        return await accepted(self.turns, asked(conversation_id=conversation_id))

    async def say(self, *contents: str, snapshot_every: int = 100) -> Committed:
        """Run a whole turn in which a person says these things."""
        turn = await self.turn()
        async with self.unit(turn, snapshot_every=snapshot_every) as work:
            if work.is_new:
                work.start(by(turn), "coder")
            for content in contents:
                work.conversation.receive_user_message(content, content, by(turn))
            return await work.commit(closing(turn))

    async def everything(self) -> list[Any]:
        """All that is stored: leases aside, which are nobody's business here."""
        return [
            await execute(self.pool, f"SELECT * FROM {table} ORDER BY 1, 2")
            for table in ("log", "snapshots", "(SELECT to_jsonb(t) - 'lease_until', 1 FROM turns t) t")
        ]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_pool(database_url, min_size=1, max_size=4) as pool, appending(database_url) as appender:
        yield Store(pool, appender)


def by(turn: TurnRow, actor: str = "user:ada") -> By:
    return By(actor, turn.turn_id)


def closing(turn: TurnRow, **fields: Any) -> Closing:
    return Closing(turn.turn_id, turn.attempt, 3, **fields)


# --- committing ----------------------------------------------------------------------------------


async def test_a_new_conversation_is_started_and_stored_with_its_agent_and_turn(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert work.is_new
        with pytest.raises(ConversationNotFoundError):
            _ = work.conversation
        with pytest.raises(ConversationNotFoundError):
            _ = work.agent
        work.start(by(turn), "coder")
        work.conversation.receive_user_message("m1", "Hello", by(turn))
        committed = await work.commit(closing(turn))
    assert [(e.position, e.type, e.version) for e in committed.events] == [
        (1, "conversation.started", 1),
        (2, "agent.assigned", 1),
        (3, "conversation.user_message_received", 2),
    ]
    assert (committed.first_position, committed.last_position) == (1, 3)
    assert list(committed.events) == list(await store.log.read(1, 3))
    row = await store.turns.find(turn.turn_id, "ada")
    assert row
    assert (row.state, row.first_position, row.last_position, row.provisional_frames) == (
        "committed",
        1,
        3,
        3,
    )
    assert row.payload is None


async def test_what_was_stored_is_there_for_the_next_turn(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert (work.is_new, work.agent.name, work.conversation.version) == (False, "coder", 2)
        work.conversation.request_call("k1", CALL, by(turn, "agent:coder"))
        await work.commit(closing(turn))
    async with store.unit("look") as work:
        assert work.conversation.state == "awaiting_decision"
        assert work.conversation.calls["k1"].arguments == {"seats": [1, 2]}


async def test_the_log_keeps_the_order_in_which_both_aggregates_recorded(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        work.agent.switch("ask", "a", "user:ada", by(turn))
        work.conversation.receive_user_message("two", "two", by(turn))
        work.agent.note_model_call("demo", 1, 2, 3, "stop", by(turn))
        work.conversation.rename("Three", by(turn))
        work.agent.switch("coder", "b", "user:ada", by(turn))
        committed = await work.commit(closing(turn))
    assert [event.type for event in committed.events] == [
        "agent.switched",
        "conversation.user_message_received",
        "agent.model_called",
        "conversation.renamed",
        "agent.switched",
    ]
    assert [event.position for event in committed.events] == [4, 5, 6, 7, 8]
    assert committed.events[0].data["from"] == "coder"


async def test_a_turn_that_repeats_an_earlier_one_is_closed_with_its_positions(store: Store) -> None:
    first = await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        committed = await work.commit(
            closing(turn, first_position=first.first_position, last_position=first.last_position)
        )
    assert committed == Committed(1, 3, ())
    row = await store.turns.find(turn.turn_id, "ada")
    assert row
    assert (row.state, row.first_position, row.last_position) == ("committed", 1, 3)
    assert await store.log.head() == 3


async def test_a_turn_that_recorded_nothing_can_be_closed(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert await work.commit(closing(turn)) == Committed(None, None, ())
    assert await store.log.head() == 0


async def test_what_the_terminal_frame_said_is_kept_with_the_turn(store: Store) -> None:
    turn = await store.turn()
    outcome = {"state": "awaiting_decision", "waiting_for": {"calls": ["k1"]}}
    async with store.unit(turn) as work:
        work.start(by(turn), "coder")
        committed = await work.commit(closing(turn, outcome=outcome))
    assert committed.outcome == outcome
    row = await store.turns.find(turn.turn_id, "ada")
    assert row
    assert row.outcome == outcome


async def test_a_second_commit_is_an_error(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        work.start(by(turn), "coder")
        await work.commit(closing(turn))
        with pytest.raises(UnitOfWorkOverError):
            await work.commit(closing(turn))
    with pytest.raises(UnitOfWorkOverError):
        await work.commit(closing(turn))
    assert await store.log.head() == 2


async def test_a_unit_of_work_that_was_left_or_never_entered_is_of_no_use(store: Store) -> None:
    turn = await store.turn()
    never = store.unit(turn)
    async with store.unit(turn) as left:
        left.start(by(turn), "coder")
    for work in (left, never):
        with pytest.raises(UnitOfWorkOverError):
            await work.commit(closing(turn))
        with pytest.raises(UnitOfWorkOverError):
            work.start(by(turn), "coder")
        with pytest.raises(UnitOfWorkOverError):
            _ = work.conversation


async def test_the_turn_of_somebody_else_is_not_closed(store: Store) -> None:
    turn = await store.turn()
    async with store.unit("other") as work:
        with pytest.raises(ValueError, match="other"):
            await work.commit(closing(turn))


# --- nothing is stored ---------------------------------------------------------------------------


async def test_leaving_without_commit_changes_nothing(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    async with store.unit(turn, snapshot_every=1) as work:
        work.conversation.receive_user_message("two", "two", by(turn))
        work.agent.switch("ask", "a", "user:ada", by(turn))
    assert await store.everything() == before


async def test_an_exception_inside_changes_nothing(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    with pytest.raises(ZeroDivisionError):
        await _fall_over(store, turn)
    assert await store.everything() == before


async def _fall_over(store: Store, turn: TurnRow) -> None:
    async with store.unit(turn, snapshot_every=1) as work:
        work.conversation.receive_user_message("two", "two", by(turn))
        raise ZeroDivisionError


async def commit_of_a_turn(store: Store, turn: TurnRow) -> Committed:
    async with store.unit(turn, snapshot_every=1) as work:
        work.conversation.receive_user_message("two", "two", by(turn))
        work.agent.switch("ask", "a", "user:ada", by(turn))
        return await work.commit(closing(turn))


async def test_a_lease_that_went_to_another_node_fences_the_late_commit(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn, snapshot_every=1) as late:
        late.conversation.receive_user_message("two", "two", by(turn))
        await expire(store.pool, turn.turn_id)
        await PostgresTurns(store.pool, "node-2", 30.0).retry(turn.turn_id, "ada")
        before = await store.everything()
        with pytest.raises(TurnLostError):
            await late.commit(closing(turn))
    assert await store.everything() == before


async def test_an_abandoned_turn_cannot_commit(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    await expire(store.pool, turn.turn_id)
    await store.turns.sweep()
    before = await store.everything()
    with pytest.raises(TurnLostError):
        await commit_of_a_turn(store, turn)
    assert await store.everything() == before


async def test_an_earlier_attempt_on_the_same_node_cannot_commit(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    await expire(store.pool, turn.turn_id)
    await store.turns.retry(turn.turn_id, "ada")
    before = await store.everything()
    with pytest.raises(TurnLostError):
        await commit_of_a_turn(store, turn)
    assert await store.everything() == before


async def test_what_somebody_else_wrote_meanwhile_is_a_conflict(store: Store) -> None:
    await store.say("one")
    turn = await store.turn()
    async with store.unit(turn) as work:
        work.agent.switch("ask", "a", "user:ada", by(turn))
        await execute(
            store.pool,
            "INSERT INTO log SELECT 4, now(), 2, stream, 'agent.model_called', conversation, 'x', actor, data"
            " FROM log WHERE stream = 'agent-c1'",
        )
        before = await store.everything()
        with pytest.raises(ConflictError):
            await work.commit(closing(turn))
    assert await store.everything() == before


async def test_a_connection_cut_for_good_at_the_commit_changes_nothing(
    store: Store, database_url: str
) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    async with CuttingProxy(database_url) as proxy, appending(proxy.url, settle_s=0.5) as appender:
        cut = Store(store.pool, appender)
        proxy.verdict = lambda direction, _: "drop" if direction == "in" else "pass"
        with pytest.raises(StoreUnavailableError):
            await commit_of_a_turn(cut, turn)
        assert await store.everything() == before
        proxy.let_pass()
        await commit_of_a_turn(cut, turn)


async def test_an_acknowledgement_lost_after_the_commit_is_asked_for_and_nothing_stored_twice(
    store: Store, database_url: str
) -> None:
    await store.say("one")
    turn = await store.turn()
    async with CuttingProxy(database_url) as proxy, appending(proxy.url) as appender:
        cut = Store(store.pool, appender)
        async with cut.unit(turn) as work:
            work.conversation.receive_user_message("two", "two", by(turn))
            await _connected(appender)
            proxy.once("out", "cut")
            committed = await work.commit(closing(turn))
        assert proxy.cuts == 1
    assert [event.position for event in committed.events] == [4]
    assert list(committed.events) == list(await store.log.read(4, 99))


async def _connected(appender: Appender) -> None:
    """Let the appender open its connection: the next answer is then the one of an append."""
    turn_less = PostgresUnitOfWork("c9", "t9", "node-1", appender, None, MAPPER)  # type: ignore[arg-type]
    turn_less._is_inside = True
    with pytest.raises(TurnLostError):
        await turn_less.commit(Closing("t9", 1, 0))


async def test_a_statement_that_takes_too_long_changes_nothing(store: Store, database_url: str) -> None:
    await store.say("one")
    turn = await store.turn()
    before = await store.everything()
    async with (
        appending(database_url, statement_timeout_s=0.2, settle_s=0.5) as appender,
        store.pool.connection() as holder,
    ):
        await holder.execute("SELECT pg_advisory_lock(append_lock())")
        with pytest.raises(StoreUnavailableError):
            await commit_of_a_turn(Store(store.pool, appender), turn)
        await holder.execute("SELECT pg_advisory_unlock(append_lock())")
        assert await store.everything() == before


@pytest.mark.may_block("it stops and starts a server")
async def test_a_server_that_is_stopped_at_the_commit_changes_nothing(server_folder: Path) -> None:
    server = EmbeddedPostgres(server_folder)
    url = await asyncio.to_thread(server.start)
    await asyncio.to_thread(migrate, url)
    async with create_pool(url, wait_s=1.0) as pool, appending(url, settle_s=0.5) as appender:
        store = Store(pool, appender)
        await store.say("one")
        turn = await store.turn()
        before = await store.everything()
        async with store.unit(turn) as work:
            work.conversation.receive_user_message("two", "two", by(turn))
            await asyncio.to_thread(server.stop)
            with pytest.raises(StoreUnavailableError):
                await work.commit(closing(turn))
        with pytest.raises(StoreUnavailableError):
            async with store.unit(turn):
                pass
        await asyncio.to_thread(server.start)
        assert await store.everything() == before
        await commit_of_a_turn(store, turn)
    await asyncio.to_thread(server.stop)


# --- two processes -------------------------------------------------------------------------------


def race(url: str, turns: list[str], start_at: float) -> list[str]:
    """In a process of its own: run these turns, each in its conversation, all at once."""
    return asyncio.run(_race(url, turns, start_at))


async def _race(url: str, turns: list[str], start_at: float) -> list[str]:
    async with open_pool(url, min_size=4, max_size=4) as pool, appending(url) as appender:
        store = Store(pool, appender)
        await asyncio.sleep(max(0.0, start_at - time.time()))
        return await asyncio.gather(*(_run(store, turn) for turn in turns))


async def _run(store: Store, turn: str) -> str:
    try:
        async with store.unit(turn, conversation_id=turn) as work:
            if work.is_new:
                work.start(By("user:ada", turn), "coder")
            work.conversation.receive_user_message("Hello", "Hello", By("user:ada", turn))
            await work.commit(Closing(turn, 1, 0))
    except MinutebookError as error:
        return type(error).__name__
    return "committed"


@pytest.mark.may_block("it waits for other processes")
async def test_of_two_processes_that_race_for_a_conversation_exactly_one_wins(
    store: Store, database_url: str
) -> None:
    """Both believe they run the same attempt of the same turn: the worst case there is."""
    turns = [f"t{number}" for number in range(30)]
    for turn in turns:
        await accepted(store.turns, asked(turn_id=turn, conversation_id=turn))
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        answers = processes.starmap(race, [(database_url, turns, time.time() + 1.5)] * 2)
    for one, other in zip(*answers, strict=True):
        assert sorted([one, other])[1] == "committed"
        assert {one, other} - {"committed"} <= {"TurnLostError", "ConflictError"}
    assert await store.log.head() == 90
    states = await execute(store.pool, "SELECT state, count(*) FROM turns GROUP BY state")
    assert states == [("committed", 30)]


# --- loading -------------------------------------------------------------------------------------


async def test_a_snapshot_says_what_a_full_replay_says(store: Store) -> None:
    for number in range(12):
        await _busy_turn(store, number)
        async with store.unit("look") as work:
            short = (work.conversation.version, work.conversation.kept_state(), work.agent.kept_state())
            assert work.conversation.modified_on.tzinfo
        await execute(store.pool, "UPDATE snapshots SET state_version = state_version + 1000")
        async with store.unit("look") as work:
            assert (
                work.conversation.version,
                work.conversation.kept_state(),
                work.agent.kept_state(),
            ) == short
        await execute(store.pool, "UPDATE snapshots SET state_version = state_version - 1000")
    kept = dict(await execute(store.pool, "SELECT stream, version FROM snapshots"))
    assert kept.keys() == {"conversation-c1", "agent-c1"}
    assert kept["conversation-c1"] > 12


async def _states(store: Store) -> list[Any]:
    async with store.unit("look") as work:
        return [(one.version, one.kept_state()) for one in (work.conversation, work.agent)]


async def _busy_turn(store: Store, number: int) -> None:
    turn = await store.turn()
    async with store.unit(turn, snapshot_every=5) as work:
        if work.is_new:
            work.start(by(turn), "coder")
        work.conversation.receive_user_message(f"m{number}", "more", by(turn))
        work.agent.switch("ask" if number % 2 else "debug", "a", "user:ada", by(turn))
        work.conversation.request_call(f"k{number}", CALL, by(turn))
        if number % 3:
            work.conversation.decide_call(f"k{number}", "edit", {"seats": number}, None, by(turn))
        if number % 4 == 0:
            subtasks = [{"id": "s", "description": "d", "agent": "coder", "depends_on": []}]
            work.conversation.propose_plan(f"p{number}", "goal", subtasks, "architect", by(turn))
        await work.commit(closing(turn))


async def test_a_snapshot_is_taken_only_where_a_multiple_is_passed(store: Store) -> None:
    await store.say("one", snapshot_every=3)
    assert await execute(store.pool, "SELECT * FROM snapshots") == []
    await store.say("two", snapshot_every=3)
    assert await execute(store.pool, "SELECT stream, version FROM snapshots") == [("conversation-c1", 3)]
    await store.say("three", "four", snapshot_every=3)
    assert await execute(store.pool, "SELECT stream, version FROM snapshots") == [("conversation-c1", 3)]


async def contents(work: PostgresUnitOfWork) -> list[str]:
    return [
        event.content if isinstance(event, Conversation.UserMessageReceived) else type(event).__name__
        async for event in work.newest_first()
    ]


@pytest.mark.parametrize("page", [1, 2, 3, 100])
@pytest.mark.parametrize("snapshot_every", [2, 100])
async def test_the_conversation_is_walked_back_newest_first_over_all_pages(
    store: Store, page: int, snapshot_every: int
) -> None:
    for content in "abcdef":
        await store.say(content, snapshot_every=snapshot_every)
    turn = await store.turn()
    async with store.unit(turn, view_page=page) as work:
        work.conversation.receive_user_message("g", "g", by(turn))
        work.agent.switch("ask", "a", "user:ada", by(turn))
        work.conversation.receive_user_message("h", "h", by(turn))
        assert await contents(work) == [*"hgfedcba", "Started"]


async def test_a_new_conversation_shows_what_was_just_recorded(store: Store) -> None:
    turn = await store.turn()
    async with store.unit(turn) as work:
        assert await contents(work) == []
        work.start(by(turn), "coder")
        assert await contents(work) == ["Started"]


async def test_older_pages_are_read_only_when_they_are_asked_for(store: Store) -> None:
    for content in "abcdef":
        await store.say(content, snapshot_every=2)
    async with store.unit("look", view_page=3) as work:
        await store.pool.close()
        walk = work.newest_first()
        assert [type(await anext(walk)).__name__ for _ in range(3)] == ["UserMessageReceived"] * 3
        with pytest.raises(StoreUnavailableError):
            await _exhaust(walk)


async def _exhaust(walk: AsyncIterator[Any]) -> None:
    async for _ in walk:
        pass


async def test_no_connection_is_held_between_loading_and_committing(database_url: str) -> None:
    async with (
        open_pool(database_url, min_size=1, max_size=1) as pool,
        appending(database_url) as appender,
        AsyncExitStack() as stack,
    ):
        store = Store(pool, appender)
        open_units = []
        for number in range(50):
            turn = await store.turn(f"c{number}")
            work = await stack.enter_async_context(store.unit(turn, f"c{number}"))
            work.start(by(turn), "coder")
            open_units.append((work, turn))
        assert pool.get_stats()["pool_available"] == 1
        await asyncio.gather(*(work.commit(closing(turn)) for work, turn in open_units))
        assert await store.log.head() == 100


async def test_a_long_conversation_loads_within_three_times_a_short_one(store: Store) -> None:
    for conversation, length in (("short", 10), ("long", 10_000)):
        await _long_conversation(store, conversation, length)
    await execute(store.pool, "ANALYZE log")
    took = {conversation: await _best_load_s(store, conversation) for conversation in ("short", "long")}
    assert took["long"] < 3 * took["short"], took


async def _long_conversation(store: Store, conversation: str, length: int) -> None:
    """Store a conversation of so many events, then one more turn, which takes its snapshot."""
    await execute(
        store.pool,
        "INSERT INTO log SELECT (SELECT coalesce(max(position), 0) FROM log) + n, now(), n, %s, "
        "CASE n WHEN 1 THEN 'conversation.started' ELSE 'conversation.user_message_received' END, %s, 't0', "
        "'user:ada', CASE n WHEN 1 THEN '{}'::bytea "
        "ELSE convert_to('{\"message_id\":\"m\",\"content\":\"' || repeat('word ', 40) || '\"}', 'UTF8') END "
        "FROM generate_series(1, %s) n",
        f"conversation-{conversation}",
        conversation,
        length - 1,
    )
    await execute(
        store.pool,
        "INSERT INTO log SELECT max(position) + 1, now(), 1, %s, 'agent.assigned', %s, 't0', 'user:ada', "
        '\'{"agent":"coder"}\' FROM log',
        f"agent-{conversation}",
        conversation,
    )
    turn = await store.turn(conversation)
    async with store.unit(turn, conversation) as work:
        work.conversation.receive_user_message("last", "last", by(turn))
        await work.commit(closing(turn))


async def _best_load_s(store: Store, conversation: str) -> float:
    best = 1e9
    for _ in range(40):
        started = time.perf_counter()
        async with store.unit("look", conversation) as work:
            assert not work.is_new
        best = min(best, time.perf_counter() - started)
    return best
