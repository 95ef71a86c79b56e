"""An erasure is nothing to hide: the sealed log still fits, and nobody else's conversation has changed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.asking import query
from tests.command_line import minutebook
from tests.integration.test_erasure import OTHER, TABLES, WORD, erase, followed, talk
from tests.sealing import seal, sealed_checkpoints
from tests.serving import Client, serving_reads

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not


def rows_of_kept(url: str) -> dict[str, list[Any]]:
    """Return all rows of the conversation that stays, as they are stored, sealed bytes and all.

    The words of a turn on its way come and go by themselves: these are not what an erasure touches.
    """
    statements = {
        table: f"SELECT to_jsonb(t) FROM {table} t WHERE position(%s in t::text) > 0 ORDER BY 1"
        for table in ("log", "snapshots", "turns", "keys.conversations", *TABLES)
    }
    found = {table: query(url, statement, "kept") for table, statement in statements.items()}
    return {table: rows for table, rows in found.items() if rows}


async def told_of_kept(client: Client) -> list[Any]:
    paths = ("", "/messages", "/approvals", "/agent")
    answers = [await client.http.get(f"/v1/conversations/kept{path}") for path in paths]
    assert {answer.status_code for answer in answers} == {200}
    said = [answer.json() for answer in answers]
    # How far the whole log is read, which the receipt moves on, is no answer of this conversation's.
    return [{name: value for name, value in one.items() if name != "position"} for one in said]


def verified(url: str, folder: Path, *arguments: str) -> dict[str, Any]:
    settings = {"database_url": url, "keys": folder / "keys"}
    done = minutebook(folder, "audit", "verify", "--json", *arguments, **settings)
    said = dict(json.loads(done.stdout.splitlines()[-1]))
    assert (done.returncode, said["ok"], said["compared"]) == (0, True, True), done.stderr + done.stdout
    return said


async def test_what_was_sealed_before_an_erasure_still_fits_after_it(
    database_url: str, tmp_path: Path
) -> None:
    async with serving_reads(database_url, seal=False) as server:
        await talk(server.client, "gone", WORD)
        await talk(server.client, "kept", OTHER)
        await asyncio.to_thread(seal, database_url, tmp_path)
        (exported,) = [one.note for one in sealed_checkpoints(database_url)][-1:]
        note = tmp_path / "before.note"
        note.write_text(exported)
        receipt = await erase(server.client, "gone")
        settings = {"database_url": database_url}
        scrubbed = await asyncio.to_thread(minutebook, tmp_path, "erase", "gone", "--yes", **settings)
        assert scrubbed.returncode == 0, scrubbed.stderr
        await asyncio.to_thread(seal, database_url, tmp_path)
    said = await asyncio.to_thread(verified, database_url, tmp_path, "--checkpoint", str(note))
    assert said["events"] == receipt["position"], "the receipt is part of the log like any other event"
    assert said["exported"] == 1


async def test_no_row_and_no_answer_of_another_conversation_is_touched(
    database_url: str, tmp_path: Path
) -> None:
    async with serving_reads(database_url) as server:
        await talk(server.client, "gone", WORD)
        await talk(server.client, "kept", OTHER)
        await followed(database_url)
        rows, told = await asyncio.to_thread(rows_of_kept, database_url), await told_of_kept(server.client)
        assert {"log", "turns", "keys.conversations", "read_entries"} <= rows.keys()
        settings = {"database_url": database_url}
        done = await asyncio.to_thread(minutebook, tmp_path, "erase", "gone", "--yes", **settings)
        assert done.returncode == 0, done.stderr
        await followed(database_url)
        assert await asyncio.to_thread(rows_of_kept, database_url) == rows
        assert await told_of_kept(server.client) == told
        by_hand = {"type": "conversation.erased", "actor": "user:local"}
        receipts = (await server.client.http.get("/v1/audit/events", params=by_hand)).json()["events"]
        assert [one["conversation_id"] for one in receipts] == ["gone"]
