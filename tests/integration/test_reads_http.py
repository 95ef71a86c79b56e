"""The read side over HTTP: what is answered, to whom, how new it is, and when it is not sent again."""

import asyncio
import time
from typing import Any

import pytest

from tests.reading import NAMED, asks, caught_up, happen, of, reader, says, standing_still
from tests.serving import serving, serving_reads
from tests.unit.commands import TASKS, Command

PLAN: Command = ("propose_plan", ("p1", "goal", [TASKS[0].to_json()], "architect"))
OF_ONE = ["", "/messages", "/approvals", "/agent"]
OF_ALL = ["/conversations", "/approvals", "/agents", "/usage"]


async def test_a_client_reads_its_own_write_at_once(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        ada = reader(server)
        where: dict[str, Any] = {}
        for turn in range(1, 6):
            end = (await server.client.say("hello", **where))[-1].data
            where = {"conversation_id": end["conversation_id"]}
            path = f"/conversations/{end['conversation_id']}"
            for part in OF_ONE:  # no answer is older than the write, whatever is asked first
                answer = await ada.get(path + part, min_position=end["last_position"])
                assert answer["position"] >= end["last_position"]
            found = (await ada.get(path, min_position=end["last_position"]))["conversation"]
            assert (found["person_messages"], found["agent_messages"]) == (turn, turn)
            assert found["last_position"] == end["last_position"]
            entries = (await ada.get(f"{path}/messages", min_position=end["last_position"]))["entries"]
            assert [entry["text"] for entry in entries if entry["detail"]["role"] == "user"] == [
                "hello"
            ] * turn


async def test_a_position_that_is_not_reached_in_time_is_said_so(database_url: str) -> None:
    async with serving_reads(database_url, read_wait_s=0.3) as server:
        end = (await server.client.say("hello"))[-1].data
        for path in [*OF_ALL, f"/conversations/{end['conversation_id']}"]:
            began = time.monotonic()
            answer = await reader(server).ask(path, min_position=10_000)
            assert 0.2 < time.monotonic() - began < 3
            assert answer.status_code == 503
            assert answer.json()["code"] == "position_not_reached"
            assert answer.json()["retryable"]
            assert answer.headers["Retry-After"]


async def test_a_conversation_that_the_list_does_not_know_yet_is_awaited(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        with standing_still(database_url, "conversation_list"):
            end = (await server.client.say("hello"))[-1].data
            path = f"/conversations/{end['conversation_id']}"
            await reader(server).get(path, status=404)
            asked = asyncio.create_task(reader(server).get(path, min_position=end["last_position"]))
            await asyncio.sleep(0.3)
            assert not asked.done()
        assert (await asked)["conversation"]["events"] == end["events"]


async def test_what_a_client_has_already_is_not_sent_again(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        ada = reader(server)
        end = (await server.client.say("hello"))[-1].data
        one = f"/conversations/{end['conversation_id']}"
        for path in [*OF_ALL, *(one + part for part in OF_ONE)]:
            first = await ada.ask(path, min_position=end["last_position"])
            etag = first.headers["ETag"]
            # Some that stand in between say a weak tag without its mark; the comparison is weak (RFC 9110).
            for given in (f'"other", {etag}', etag.removeprefix("W/"), "*"):
                again = await ada.ask(path, headers={"If-None-Match": given})
                assert (again.status_code, again.content) == (304, b""), given
                assert int(again.headers["Minutebook-Position"]) >= end["last_position"]
        tag = {"If-None-Match": (await ada.ask(one)).headers["ETag"]}
        later = (await server.client.say("again", conversation_id=end["conversation_id"]))[-1].data
        changed = await ada.ask(one, headers=tag, min_position=later["last_position"])
        assert changed.status_code == 200


async def test_to_anybody_else_a_conversation_does_not_exist(database_url: str) -> None:
    history = [says("a secret word"), asks("call-1")]
    await happen(database_url, "ada", "hers", *history)
    async with serving_reads(database_url, **NAMED) as server:
        ada, bob = reader(server), reader(server, "bob", "chat operate")
        position = len(of("ada", "hers", *history))
        for part in OF_ONE:
            await ada.get(f"/conversations/hers{part}", min_position=position)
            refusal = await bob.get(f"/conversations/hers{part}", status=404, min_position=position)
            assert refusal["code"] == "conversation_not_found"
            unknown = await bob.get(f"/conversations/nobodys{part}", status=404)
            assert refusal == unknown
        await ada.get("/usage", min_position=position)  # none of the above waits for that read model
        assert await ada.all_pages("/conversations", "conversations")
        for path, name in (
            ("/conversations", "conversations"),
            ("/approvals", "approvals"),
            ("/usage", "usage"),
        ):
            assert await bob.all_pages(path, name) == []
        assert len(await ada.all_pages("/messages/search", "hits", q="secret")) == 1
        assert await bob.all_pages("/messages/search", "hits", q="secret") == []
        assert {agent["conversations"] for agent in (await bob.get("/agents"))["agents"]} == {0}
        refusal = await ada.get("/usage", status=403, everybody=True)
        assert refusal["code"] == "forbidden"
        assert len(await bob.all_pages("/usage", "usage", everybody=True)) == 1


async def test_the_list_is_filtered_by_state_agent_and_a_part_of_the_title(database_url: str) -> None:
    waiting = [says("Flight to Ōsaka 100%"), asks("call-1")]
    await happen(database_url, "ada", "waits", *waiting)
    await happen(database_url, "ada", "plans", says("A plan"), PLAN)
    await happen(database_url, "ada", "gone", says("old news"), ("archive", ()))
    await caught_up(database_url)
    async with serving(database_url, projections=False, **NAMED) as server:

        async def found(**query: Any) -> list[str]:
            page = await reader(server).get("/conversations", **query)
            return [one["conversation_id"] for one in page["conversations"]]

        assert await found() == ["gone", "plans", "waits"]
        assert await found(state="awaiting_decision") == ["waits"]
        assert await found(state="plan_in_review") == ["plans"]
        assert await found(state="archived") == ["gone"]
        assert await found(state="idle") == []
        assert await found(search="ōSAKA") == ["waits"]
        assert await found(search="%") == ["waits"]  # it is no pattern
        assert await found(search="_") == []
        assert await found(search="plan", state="archived") == []
        agents = {agent: await found(agent=agent) for agent in ("coder", "ask", "nobody")}
        assert sorted(agents["coder"] + agents["ask"]) == ["gone", "plans", "waits"]
        assert agents["nobody"] == []
        summary = (await reader(server).get("/conversations/waits"))["conversation"]
        assert summary["waiting_for"] == {"calls": ["call-1"], "decisions": ["call-1"], "plan": None}
        summary = (await reader(server).get("/conversations/plans"))["conversation"]
        assert summary["waiting_for"]["plan"] == {"plan_id": "p1", "plan_version": 1}


async def test_what_waits_for_a_person_is_listed_until_it_is_decided(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        ada = reader(server)
        frames = await server.client.send(
            {"type": "user_message", "content": "write a.txt", "agent": "coder"}
        )
        end = frames[-1].data
        (asked,) = [frame.data for frame in frames if frame.type == "conversation.tool_call_requested"]
        (approval,) = (await ada.get("/approvals", min_position=end["last_position"]))["approvals"]
        assert approval["conversation_id"] == end["conversation_id"]
        assert (approval["kind"], approval["agent"]) == ("call", "coder")
        assert (approval["position"], approval["since"]) == (asked["position"], asked["recorded_at"])
        assert approval["detail"] == {
            name: asked["data"][name] for name in ("call_id", "tool", "arguments", "rule")
        }
        counted = (await server.client.http.get("/metrics")).text
        assert "approvals_pending 1.0" in counted
        assert float(counted.partition("\napprovals_oldest_seconds ")[2].split()[0]) > 0
        decision = {"type": "hitl_decision", "call_id": asked["data"]["call_id"], "decision": "approve"}
        end = (await server.client.send(decision, conversation_id=end["conversation_id"]))[-1].data
        for path in ("/approvals", f"/conversations/{end['conversation_id']}/approvals"):
            assert (await ada.get(path, min_position=end["last_position"]))["approvals"] == []
        assert "approvals_pending 0.0" in (await server.client.http.get("/metrics")).text


async def test_the_agents_are_listed_with_their_tools_and_where_they_are_on(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        ada = reader(server)
        frames = await server.client.send({"type": "user_message", "content": "hello", "agent": "coder"})
        end = frames[-1].data
        where = {"conversation_id": end["conversation_id"]}
        switch = {"type": "switch_agent", "agent": "ask", "reason": "only a question"}
        end = (await server.client.send(switch, **where))[-1].data
        agents = (await ada.get("/agents", min_position=end["last_position"]))["agents"]
        by_name = {agent["name"]: agent for agent in agents}
        assert (by_name["ask"]["conversations"], by_name["coder"]["conversations"]) == (1, 0)
        assert by_name["architect"]["writes"] == ["*.md"]
        assert by_name["coder"]["tools"][0].keys() == {"name", "description", "parameters"}
        assert "instructions" not in by_name["coder"]
        on = await ada.get(f"/conversations/{where['conversation_id']}/agent")
        assert on["agent"] == "ask"
        (switched,) = on["switches"]
        expected = {"from": "coder", "to": "ask", "reason": "only a question", "requested_by": "user:local"}
        assert {name: switched[name] for name in expected} == expected
        assert switched["at"] == on["since"]
        assert [(stint["agent"], stint["model_calls"]) for stint in on["stints"]] == [
            ("ask", 0),
            ("coder", 1),
        ]


async def test_usage_adds_up_in_whatever_groups_it_is_asked_for(database_url: str) -> None:
    history = [("rename", (str(number),)) for number in range(9)]
    for number in range(3):
        await happen(database_url, "ada", f"c{number}", *history)
    await caught_up(database_url)
    async with serving(database_url, projections=False, **NAMED) as server:
        ada = reader(server)
        (whole,) = await ada.all_pages("/usage", "usage")
        assert whole["calls"] == 9
        for by in ("agent", "model", "conversation", "day", "agent,model", "day,conversation,model,agent"):
            parts = await ada.all_pages("/usage", "usage", by=by, limit=1)
            assert parts == (await ada.get("/usage", by=by))["usage"]
            assert all(part["group"].keys() == set(by.split(",")) for part in parts)
            for name in ("calls", "input_tokens", "output_tokens", "duration_ms"):
                assert sum(part[name] for part in parts) == whole[name]
        assert len(await ada.all_pages("/usage", "usage", by="conversation,agent", limit=2)) == 6
        assert await ada.all_pages("/usage", "usage", to="2020-01-01") == []
        assert await ada.all_pages("/usage", "usage", **{"from": "2020-01-01"}) == [whole]
        (one,) = await ada.all_pages("/usage", "usage", model="model-1", conversation="c1")
        assert one["calls"] == 3
        assert await ada.all_pages("/usage", "usage", model="model-0", conversation="c1") == []
        for by in ("colour", "agent,agent"):
            assert (await ada.get("/usage", status=422, by=by))["code"] == "invalid_filter"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/conversations", {"cursor": "nonsense"}),
        ("/conversations", {"cursor": "W10"}),  # []
        ("/conversations", {"cursor": "WyJoaXQiLDFd"}),  # of a search
        ("/conversations", {"cursor": "WyJjb252ZXJzYXRpb25zIiwiYSJd"}),  # no position
        ("/conversations", {"cursor": "WyJjb252ZXJzYXRpb25zIiwxZTk5XQ"}),
        ("/usage", {"cursor": "WyJ1c2FnZSIsIngiXQ"}),  # a group that was not asked for
        ("/usage", {"by": "agent", "cursor": "WyJ1c2FnZSxhZ2VudCIsIlx1ZDgwMCJd"}),  # half a surrogate pair
        ("/usage", {"by": "agent", "cursor": "WyJ1c2FnZSxhZ2VudCIsIlx1MDAwMCJd"}),  # NUL
        ("/conversations/c1/messages", {"after": "é"}),
    ],
)
async def test_what_is_no_cursor_of_this_list_is_refused(database_url: str, path: str, query: Any) -> None:
    async with serving(database_url, projections=False) as server:
        assert (await reader(server).get(path, status=422, **query))["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/conversations", {"limit": 0}),
        ("/conversations", {"limit": 201}),
        ("/conversations", {"state": "asleep"}),
        ("/conversations", {"min_position": -1}),
        ("/conversations", {"min_position": 2**63}),
        ("/conversations", {"search": "\0"}),
        ("/messages/search", {}),
        ("/messages/search", {"q": ""}),
        ("/usage", {"from": "yesterday"}),
    ],
)
async def test_what_cannot_be_asked_is_refused(database_url: str, path: str, query: Any) -> None:
    async with serving(database_url, projections=False) as server:
        assert (await reader(server).get(path, status=422, **query))["code"] == "invalid_message"


async def test_a_cursor_of_the_usage_belongs_to_its_groups(database_url: str) -> None:
    history = [("rename", (str(number),)) for number in range(9)]
    await happen(database_url, "ada", "c1", *history)
    await caught_up(database_url)
    async with serving(database_url, projections=False, **NAMED) as server:
        ada = reader(server)
        cursor = (await ada.get("/usage", by="agent", limit=1))["next"]
        assert cursor
        assert (await ada.get("/usage", by="agent", cursor=cursor))["usage"]
        for by in ("model", "day", "agent,model"):
            refusal = await ada.get("/usage", status=422, by=by, cursor=cursor)
            assert refusal["code"] == "invalid_cursor"


async def test_an_id_that_no_conversation_can_have_is_no_conversation(database_url: str) -> None:
    async with serving(database_url, projections=False) as server:
        for part in OF_ONE:
            refusal = await reader(server).get(f"/conversations/.%00{part}", status=404)
            assert refusal["code"] == "conversation_not_found"
