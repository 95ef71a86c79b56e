"""People who keep talking to a server that keeps dying, and what must be true of the log afterwards."""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import psycopg

from tests.replaying import LogRow, read_log
from tests.serving import Client, Refused, SseFrame, frames_of

TRY_AGAIN = {"turn_in_progress", "store_unavailable", "shutting_down"}
PAUSE_S = 0.15
MESSAGES_A_CONVERSATION = 12
WORDS = (
    "hello", "help", "long 40", "slow 1", "list", "read README.md", "three files", "both", "write a.txt",
    "coder: both", "coder: write b.txt", "coder: delete a.txt", "switch to debug", "plan a small house",
    "forbidden", "bad arguments", "fail",
)  # fmt: skip
ONE_OF = {
    "user_message": {"conversation.user_message_received"},
    "tool_result": {"conversation.tool_result_received"},
    "switch_agent": {"agent.switched"},
    "hitl_decision": {f"conversation.tool_call_{kind}" for kind in ("approved", "edited", "rejected")},
    "plan_decision": {
        f"conversation.plan_{kind}" for kind in ("approved", "modification_requested", "rejected")
    },
}


@dataclass
class Said:
    """What all people were told by the server."""

    committed: dict[str, list[SseFrame]] = field(default_factory=dict)
    sent: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    conversations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Talker:
    """One person: talks in one conversation after the other, and sends again what got no answer."""

    def __init__(self, http: httpx.AsyncClient, said: Said, random: Random) -> None:
        self._client, self._http = Client(http), http
        self._said, self._random = said, random
        self._state: Mapping[str, Any] = {}
        self.conversation_id = ""

    async def talk(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            self.conversation_id, self._state = str(uuid4()), {"state": "idle"}
            self._said.conversations.append(self.conversation_id)
            for _ in range(MESSAGES_A_CONVERSATION):
                if not stopped.is_set():
                    await asyncio.gather(*map(self.deliver, self._next()))

    # --- what to say -----------------------------------------------------------------------------

    def _next(self) -> list[dict[str, Any]]:
        waiting = self._state.get("waiting_for") or {"calls": [], "decisions": [], "plan": None}
        if self._random.random() < 0.9:
            if waiting["plan"]:
                return [self._plan_decision(waiting["plan"])]
            if waiting["decisions"]:
                return [self._decision(call_id) for call_id in waiting["decisions"]]
            if waiting["calls"]:
                return [self._result(call_id) for call_id in waiting["calls"]]
        if "position" in self._state and self._random.random() < 0.1:
            return [{"type": "switch_agent", "agent": self._random.choice(("coder", "ask", "architect"))}]
        return [{"type": "user_message", "content": self._random.choice(WORDS)}]

    def _plan_decision(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        decision = self._random.choice(("approve", "approve", "modify", "reject"))
        return {"type": "plan_decision", **plan, "decision": decision, "feedback": "as you like it"}

    def _decision(self, call_id: str) -> dict[str, Any]:
        decision = self._random.choice(("approve", "approve", "edit", "reject"))
        more = {"arguments": {"path": "c.txt", "content": "✎"}} if decision == "edit" else {}
        return {"type": "hitl_decision", "call_id": call_id, "decision": decision, **more}

    def _result(self, call_id: str) -> dict[str, Any]:
        answer = self._random.choice(({"result": None}, {"result": ["a", 0]}, {"error": "no such file"}))
        return {"type": "tool_result", "call_id": call_id, **answer}

    # --- saying it -------------------------------------------------------------------------------

    async def deliver(self, message: Mapping[str, Any]) -> bool:
        """Send a message until it is committed; False where it was given up or refused."""
        turn_id = str(uuid4())
        self._said.sent[turn_id] = message
        body = {"conversation_id": self.conversation_id, "turn_id": turn_id, "message": message}
        path = "/v1/messages/stream"
        while True:
            frames = await self._try(path, body)
            path = "/v1/messages/stream"
            if frames is None:
                await asyncio.sleep(PAUSE_S)
            elif not frames or frames[-1].data.get("code") == "model_unavailable":
                self._said.given_up.add(turn_id)
                return False
            elif frames[-1].type == "turn.committed":
                self._note(turn_id, frames)
                return True
            else:
                self._said.counts[frames[-1].data["code"]] += 1
                assert frames[-1].data["retryable"], frames[-1]
                if self._random.random() < 0.2:  # some people just say something else
                    self._said.given_up.add(turn_id)
                    return False
                path = f"/v1/turns/{turn_id}/retry"

    async def _try(self, path: str, body: Mapping[str, Any]) -> list[SseFrame] | None:
        """Return the frames of a stream; None where it is to be asked again; empty where it is refused."""
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    return self._refused(Refused(response.status_code, httpx_json(await response.aread())))
                frames = [frame async for frame in frames_of(response)]
                assert frames, "a stream ended without a terminal frame"
                assert frames[-1].is_final, f"a stream ended without a terminal frame: {frames[-1]}"
                return frames
        except httpx.TransportError:
            self._said.counts["cut"] += 1
            return None

    def _refused(self, refusal: Refused) -> list[SseFrame] | None:
        self._said.counts[str(refusal.code)] += 1
        if refusal.code in TRY_AGAIN | {"turn_not_retryable", "turn_not_found"}:
            return None  # it is running again, or even committed: the message tells
        if refusal.code in {"nothing_awaited", "call_closed", "conversation_not_found", "plan_in_execution"}:
            return []  # something said side by side, or given up though it was stored, has changed the state
        raise refusal

    def _note(self, turn_id: str, frames: Sequence[SseFrame]) -> None:
        self._said.committed[turn_id] = list(frames)
        told = frames[-1].data
        if told["last_position"] > self._state.get("position", 0):
            self._state = {**told, "position": told["last_position"]}


def httpx_json(body: bytes) -> dict[str, Any]:
    return dict(httpx.Response(200, content=body).json())


@asynccontextmanager
async def talking(url: str, people: int, random: Random) -> AsyncIterator[Said]:
    """Let people talk for the length of the block, and finish their sentences after it."""
    said, stopped = Said(), asyncio.Event()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=people)
    async with (
        httpx.AsyncClient(base_url=url, timeout=60, limits=limits, verify=False) as http,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(people):
            talker = Talker(http, said, Random(random.random()))
            group.create_task(talker.talk(stopped))
        try:
            yield said
        finally:
            stopped.set()


# --- what must be true -----------------------------------------------------------------------------


def judge(database_url: str, said: Said) -> dict[str, int]:
    """Check the log against itself, the turns and what people were told; returns how many turns ended how."""
    log = read_log(database_url)
    turns = read_turns(database_url)
    judge_positions(log)
    by_turn: dict[str, list[LogRow]] = defaultdict(list)
    for row in log:
        by_turn[row.turn].append(row)
    judge_turns(turns, by_turn)
    for turn_id, frames in said.committed.items():
        judge_told(frames, log, said.sent[turn_id])
        assert turns[turn_id]["state"] == "committed"
    for turn_id in said.sent.keys() - turns.keys():
        assert turn_id in said.given_up  # refused: no trace of it
    return Counter(str(turn["state"]) for turn in turns.values())


def read_turns(database_url: str) -> dict[str, dict[str, Any]]:
    """Read every turn's row by its id."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT to_jsonb(t) FROM turns t").fetchall()
    return {turn["id"]: turn for (turn,) in rows}


def judge_positions(log: Sequence[LogRow]) -> None:
    """Positions have no gap, and neither have the versions of any stream."""
    assert [row.position for row in log] == list(range(1, len(log) + 1))
    versions: Counter[str] = Counter()
    for row in log:
        versions[row.stream] += 1
        assert row.version == versions[row.stream], row


def judge_turns(turns: Mapping[str, Mapping[str, Any]], by_turn: Mapping[str, Sequence[LogRow]]) -> None:
    """A committed turn is in the log in one piece, once; of any other there is no trace."""
    assert by_turn.keys() <= turns.keys(), "events of a turn that was never accepted"
    for turn_id, turn in turns.items():
        positions = [row.position for row in by_turn.get(turn_id, ())]
        if turn["state"] == "committed" and not positions:
            assert turn["kind"] == "switch_agent"  # to the agent that was on already: nothing new
        elif turn["state"] == "committed":
            assert positions == list(range(turn["first_position"], turn["last_position"] + 1)), turn
            assert {row.conversation for row in by_turn[turn_id]} == {turn["conversation"]}
            asked = [row for row in by_turn[turn_id] if row.type in ONE_OF[turn["kind"]]]
            by_person = [row for row in asked if row.actor == "user:local"]
            assert len(by_person) == 1, f"{turn['kind']} of {turn_id} happened {len(by_person)} times"
        else:
            assert positions == [], f"a turn that is {turn['state']} left events"


def judge_told(frames: Sequence[SseFrame], log: Sequence[LogRow], message: Mapping[str, Any]) -> None:
    """What a person was told is in the log, whole, at exactly the positions they were told."""
    end = frames[-1].data
    rows = log[end["first_position"] - 1 : end["last_position"]]
    told = [frame for frame in frames if "position" in frame.data]
    assert len(told) == len(rows)
    for frame, row in zip(told, rows, strict=True):
        said = (frame.data["position"], frame.type, frame.data["actor"], frame.data["data"])
        stored = (row.position, row.type, row.actor, row.data)
        assert said == stored, f"told {said}, stored {stored}"
    if message["type"] == "user_message":
        assert message["content"] in [row.data.get("content") for row in rows]


async def until_none_runs(database_url: str, seconds: float) -> None:
    """Wait until no turn is running any more: those of dead servers lose their leases."""
    for _ in itertools.count():
        turns = await asyncio.to_thread(read_turns, database_url)
        running = [turn for turn in turns.values() if turn["state"] == "running"]
        if not running:
            return
        seconds -= 0.1
        assert seconds > 0, f"still running: {running}"
        await asyncio.sleep(0.1)


async def all_can_go_on(url: str, conversations: Sequence[str]) -> None:
    """Say one more thing in every conversation."""
    gate = asyncio.Semaphore(16)

    async def go_on(conversation_id: str) -> None:
        async with gate:
            frames = await Client(http).say("hello", conversation_id=conversation_id)
            assert frames[-1].type == "turn.committed", (conversation_id, frames[-1])

    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http:
        await asyncio.gather(*map(go_on, conversations))
