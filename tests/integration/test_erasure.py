"""After an erasure nobody can read what was said: by no door, in no process, from no backup or file."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from infrastructure.postgres.embedded import EmbeddedPostgres
from infrastructure.postgres.server_process import binaries
from infrastructure.projections.rebuild import Rebuild
from infrastructure.projections.registry import READ_MODELS
from infrastructure.projections.verify import Difference, verify
from tests.asking import query
from tests.command_line import DATA, minutebook
from tests.opened import opened_log, opened_payload, vault
from tests.serving import Client, Refused, ServerProcess, SseFrame, feed_items, serving_reads

WORD = "xylotomography"  # in no dictionary and no other test
OTHER = "quokkaphone"
TABLES = tuple(table.name for model in READ_MODELS for table in model.tables)


async def talk(client: Client, conversation: str, word: str) -> None:
    """Say the word in a message, a title, a tool's arguments and result, a plan, and in a turn that fails."""
    where = {"conversation_id": conversation}
    frames = await client.say(f"read notes/{word}.txt", **where)
    (call,) = [frame.data["data"] for frame in frames if frame.type == "conversation.tool_call_requested"]
    result = {"type": "tool_result", "call_id": call["call_id"], "result": {"text": f"{word} all over"}}
    await client.send(result, **where)
    answer = await client.http.patch(f"/v1/conversations/{conversation}", json={"title": f"About {word}"})
    assert answer.status_code in (200, 202), answer.text
    await client.say(f"plan: a talk on {word}", **where)
    failed = await client.say(f"fail {word}", **where)
    assert failed[-1].type == "turn.failed"


async def erase(client: Client, conversation: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = await client.http.post(f"/v1/conversations/{conversation}/erase", json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def followed(url: str) -> None:
    """Wait until the read models have got to where the log is now."""
    behind = "SELECT 1 FROM projections, log_head h WHERE projections.position < h.position"
    while await asyncio.to_thread(query, url, behind):  # noqa: ASYNC110 (a thread of the server does it)
        await asyncio.sleep(0.02)


async def whole_feed(client: Client, last: int) -> list[SseFrame]:
    items: list[SseFrame] = []
    async with (
        client.http.stream("GET", "/v1/feed", params={"after": "0"}) as response,
        aclosing(feed_items(response)) as feed,  # type: ignore[type-var]  # a generator
    ):
        while not items or int(items[-1].id or 0) < last:
            items.append(await anext(feed))
    return items


async def listed(client: Client, state: str) -> list[str]:
    answer = (await client.http.get("/v1/conversations", params={"state": state})).json()
    return [one["conversation_id"] for one in answer["conversations"]]


async def everything_said(client: Client, conversation: str, last: int) -> str:
    """Return what every door says of the conversation, as one text."""
    texts = [json.dumps([item.data for item in await whole_feed(client, last)], ensure_ascii=False)]
    about = f"/v1/conversations/{conversation}"
    for path in (
        about, f"{about}/messages", f"{about}/approvals", f"{about}/agent", "/v1/conversations",
        "/v1/approvals", "/v1/usage?by=conversation", f"/v1/messages/search?q={WORD}",
        f"/v1/messages/search?q={OTHER}",        f"/v1/conversations?search={WORD}",
        f"/v1/audit/events?text={WORD}", "/v1/audit/events?limit=200", "/v1/audit/events/1",
        f"/v1/audit/conversations/{conversation}", f"/v1/audit/conversations/{conversation}/changes",
        "/v1/audit/approvals", "/v1/audit/retried", "/v1/audit/turns?state=failed",
        "/v1/audit/export", "/v1/audit/export?format=csv",
    ):  # fmt: skip
        answer = await client.http.get(path)
        assert answer.status_code in (200, 404, 410), (path, answer.text)
        texts.append(answer.text)
    return "\n".join(texts)


async def test_no_door_tells_what_was_erased_and_everything_else_is_as_it_was(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        await talk(server.client, "gone", WORD)
        await talk(server.client, "kept", OTHER)
        await followed(database_url)
        before = await asyncio.to_thread(opened_log, database_url)
        assert WORD in await everything_said(server.client, "gone", before[-1].position)
        turns = {row.turn for row in before if row.conversation == "gone"}

        receipt = await erase(server.client, "gone", reason="asked for by the person")
        assert receipt["position"] == len(before) + 1
        assert receipt["erased"]["events"] == sum(row.conversation == "gone" for row in before)
        assert await erase(server.client, "gone") == receipt  # again: nothing more happens

        await followed(database_url)
        said = await everything_said(server.client, "gone", receipt["position"])
        assert WORD not in said
        assert OTHER in said
        assert '"erased": true' in said
        for turn in turns:
            assert WORD not in json.dumps([frame.data for frame in await server.client.read_turn(turn)])
        summary = (await server.client.http.get("/v1/conversations/gone")).json()["conversation"]
        assert (summary["state"], summary["title"]) == ("erased", None)
        assert await listed(server.client, "erased") == ["gone"]
        assert await listed(server.client, "idle") == ["kept"]
        transcript = (await server.client.http.get("/v1/conversations/gone/messages")).json()
        assert [entry["kind"] for entry in transcript["entries"]] == ["erasure"]
        after = await asyncio.to_thread(opened_log, database_url)
        assert [row for row in after if row.conversation == "kept"] == [
            row for row in before if row.conversation == "kept"
        ]
        with pytest.raises(Refused) as refused:
            await server.client.say("hello again", conversation_id="gone")
        assert (refused.value.status, refused.value.code) == (410, "conversation_erased")
        (await server.client.say("hello", conversation_id="kept"))
    digests = "SELECT count(*) FROM turns WHERE conversation = 'gone' AND payload_hash <> ''"
    assert query(database_url, digests) == [(0,)]
    for table in (*TABLES, "snapshots", "chunks", "turns", "log"):
        rows = query(database_url, f"SELECT t::text FROM {table} t")
        assert not [row for (row,) in rows if WORD in row or WORD.encode().hex() in row], table


async def test_what_the_tables_hold_after_an_erasure_is_what_the_log_says(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        await talk(server.client, "gone", WORD)
        await talk(server.client, "kept", OTHER)
        await followed(database_url)
        await erase(server.client, "gone")
        await followed(database_url)
    found: list[Difference] = []
    for model in READ_MODELS:
        verified = await asyncio.to_thread(
            verify, Rebuild(database_url, model, vault=vault()), model, found.append
        )
        assert verified is not None
    assert not found


async def is_running(url: str, turn: str) -> None:
    statement = "SELECT 1 FROM turns WHERE id = %s AND state = 'running'"
    while not await asyncio.to_thread(query, url, statement, turn):  # noqa: ASYNC110 (another process runs it)
        await asyncio.sleep(0.02)


async def test_nothing_is_erased_while_a_turn_runs(database_url: str) -> None:
    async with serving_reads(database_url, demo_delay_s=0.05) as server:
        running = asyncio.create_task(server.client.say("slow 100", conversation_id="c1", turn_id="t1"))
        await is_running(database_url, "t1")
        assert (await erase(server.client, "c1", 409))["turn_id"] == "t1"
        await server.client.http.post("/v1/turns/t1/cancel")
        await running
        running = asyncio.create_task(server.client.say("slow 100", conversation_id="c1", turn_id="t2"))
        await is_running(database_url, "t2")
        refused = await erase(server.client, "c1", 409)
        assert (refused["code"], refused["turn_id"]) == ("turn_in_progress", "t2")
        await server.client.http.post("/v1/turns/t2/cancel")
        await running
        await erase(server.client, "c1")


async def test_another_process_forgets_what_it_has_in_memory(database_url: str) -> None:
    async with serving_reads(database_url) as one, serving_reads(database_url) as other:
        await talk(one.client, "gone", WORD)
        await other.client.say(f"and {WORD} again", conversation_id="gone")  # now both have the key in memory
        receipt = await erase(one.client, "gone")
        for server in (one, other):
            said = await everything_said(server.client, "gone", receipt["position"])
            if WORD in said:  # its read models have a moment; its tailer has a poll interval
                await followed(database_url)
                await asyncio.sleep(1)
                said = await everything_said(server.client, "gone", receipt["position"])
            assert WORD not in said
            with pytest.raises(Refused, match="conversation_erased"):
                await server.client.say("hello again", conversation_id="gone")


async def test_only_the_owner_or_an_operator_erases(database_url: str) -> None:
    headers = {"identity_header": "X-Subject", "scopes_header": "X-Scopes"}
    async with serving_reads(database_url, **headers) as server:
        ada = {"X-Subject": "ada", "X-Scopes": "chat"}
        bob = {"X-Subject": "bob", "X-Scopes": "chat"}
        admin = {"X-Subject": "root", "X-Scopes": "operate"}
        for name in ("c1", "c2"):
            await server.client.say(f"hello {WORD}", conversation_id=name, headers=ada)
        post = server.client.http.post
        assert (await post("/v1/conversations/c1/erase", headers=bob)).status_code == 404
        assert (await post("/v1/conversations/c1/erase", headers=ada)).status_code == 200
        assert (await post("/v1/conversations/c2/erase", headers=admin)).json()["actor"] == "user:root"
        assert (await post("/v1/conversations/c3/erase", headers=admin)).status_code == 404


# --- files and backups --------------------------------------------------------------------------------


def holding(folder: Path, word: str) -> list[str]:
    """Return the files in which the word stands, in the bytes of UTF-8."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in paths if word.encode() in path.read_bytes()]


@asynccontextmanager
async def own_server(folder: Path) -> AsyncIterator[Client]:
    """A server with an embedded database, as a process of its own."""
    process = ServerProcess(folder, demo_delay_s=0)
    await asyncio.to_thread(process.start)
    try:
        async with httpx.AsyncClient(base_url=process.url, timeout=60, verify=False) as http:
            yield Client(http)
    finally:
        await asyncio.to_thread(process.stop)


def settled(data: Path) -> bytes:
    """Let all that was said be in the files, in statistics too; returns the wrapped key of `gone`."""
    with EmbeddedPostgres(data) as embedded:
        url = embedded.start()
        asyncio.run(followed(url))
        for statement in ("ANALYZE", "CHECKPOINT"):
            query(url, statement)
        (found,) = query(url, "SELECT wrapped FROM keys.conversations WHERE conversation = 'gone'")
        return bytes(found[0])


def dump(url: str, *options: str) -> bytes:
    done = subprocess.run(
        [str(binaries() / "pg_dump"), *options, "--dbname", url], capture_output=True, check=True
    )
    return done.stdout


def restore(url: str, name: str, *dumps: bytes) -> str:
    query(url, f"CREATE DATABASE {name}")
    there = url.replace("/minutebook?", f"/{name}?")
    for one in dumps:
        subprocess.run([str(binaries() / "psql"), "-q", there], input=one, capture_output=True, check=True)
    return there


# As docs/operations.md has it, without and with the turns.
WITH_TURNS = ("--exclude-schema=keys", "--exclude-table-data=read_*")
LOG_ONLY = (*WITH_TURNS, "--exclude-table-data=turns")


@pytest.mark.may_block("it starts and stops a database of its own")
async def test_a_backup_of_the_log_with_later_keys_brings_nothing_back(server_folder: Path) -> None:
    async with own_server(server_folder) as client:
        await talk(client, "gone", WORD)
        await talk(client, "kept", OTHER)
    with EmbeddedPostgres(server_folder / DATA) as embedded:
        url = await asyncio.to_thread(embedded.start)
        of_log = await asyncio.to_thread(dump, url, *LOG_ONLY)
        with_turns = await asyncio.to_thread(dump, url, *WITH_TURNS)
        of_keys = await asyncio.to_thread(dump, url, "--schema=keys")
        (failed,) = query(url, "SELECT id FROM turns WHERE conversation = 'gone' AND state = 'failed'")[0]
        await asyncio.to_thread(minutebook, server_folder, "erase", "gone", "--yes", "--no-scrub")
        of_later_keys = await asyncio.to_thread(dump, url, "--schema=keys")
        for one in (with_turns, of_keys):
            assert WORD.encode() not in one
            assert WORD.encode().hex().encode() not in one
        alone = await asyncio.to_thread(restore, url, "alone", of_log)
        refused = await asyncio.to_thread(minutebook, server_folder, "rebuild", database_url=alone)
        assert refused.returncode != 0
        assert "key store" in refused.stderr
        both = await asyncio.to_thread(restore, url, "with_keys", of_later_keys, of_log)
        rows = await asyncio.to_thread(opened_log, both)
        assert not [row for row in rows if WORD.encode() in row.data]
        assert [row for row in rows if OTHER.encode() in row.data]
        assert query(both, "SELECT count(*) FROM turns") == [(0,)]
        # Where the advice is not followed messages of failed turns come back, and with old keys all.
        more = await asyncio.to_thread(restore, url, "with_turns", of_later_keys, with_turns)
        assert WORD.encode() in opened_payload(more, failed)
        assert not [row for row in await asyncio.to_thread(opened_log, more) if WORD.encode() in row.data]
        old = await asyncio.to_thread(restore, url, "with_old_keys", of_keys, of_log)
        assert any(WORD.encode() in row.data for row in await asyncio.to_thread(opened_log, old))
