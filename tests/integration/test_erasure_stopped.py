"""Read models that stand still hold up no erasure: what they hold of the conversation is gone, too."""

import asyncio
import json

from infrastructure.projections.registry import READ_MODELS
from tests.asking import query
from tests.integration.test_erasure import TABLES, WORD, erase, followed, talk
from tests.projecting import held, reference
from tests.serving import Client, serving_reads

REFUSE = """
    CREATE FUNCTION refuse_bad() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.conversation = 'bad' THEN RAISE 'refused' USING errcode = 'check_violation'; END IF;
        RETURN NEW;
    END $$"""
TRIGGER = "CREATE TRIGGER bad BEFORE INSERT ON {0} FOR EACH ROW EXECUTE FUNCTION refuse_bad()"


async def until(url: str, condition: str) -> None:
    while not await asyncio.to_thread(query, url, condition):  # noqa: ASYNC110 (a thread of the server does it)
        await asyncio.sleep(0.02)


async def stopped(url: str, client: Client) -> None:
    """Let every read model stop at an event of another conversation."""
    query(url, REFUSE)
    for table in TABLES:
        query(url, TRIGGER.format(table))
    for content in ("read notes/nothing.txt", "plan: a talk on nothing"):
        await client.say(content, conversation_id="bad")
    await until(url, "SELECT 1 WHERE NOT EXISTS (SELECT FROM projections WHERE state <> 'failed')")


def rows_of(url: str, tables: list[str]) -> str:
    return json.dumps([query(url, f"SELECT t::text FROM {table} t") for table in tables])


async def test_read_models_that_have_stopped_serve_nothing_that_was_erased(database_url: str) -> None:
    left = "read_entries__g7"  # of a rebuild that was killed
    async with serving_reads(database_url) as server:
        await talk(server.client, "gone", WORD)
        await talk(server.client, "kept", "quokkaphone")
        await followed(database_url)
        await stopped(database_url, server.client)
        query(database_url, f"CREATE TABLE {left} AS SELECT * FROM read_entries")
        kept = "SELECT count(*) FROM read_entries WHERE conversation = 'kept'"
        before = query(database_url, kept)
        await erase(server.client, "gone")
        for path in ("gone/messages", "gone", "gone/approvals", "gone/agent"):
            answer = await server.client.http.get(f"/v1/conversations/{path}")
            assert WORD not in answer.text
        assert WORD not in (await server.client.http.get(f"/v1/messages/search?q={WORD}")).text
        assert WORD not in rows_of(database_url, [*TABLES, left])
        assert '"gone"' not in rows_of(database_url, ["read_requests", "read_tool_events"])
        assert query(database_url, kept) == before
    query(database_url, "DROP FUNCTION refuse_bad CASCADE")
    async with serving_reads(database_url) as server:
        await followed(database_url)
        summary = (await server.client.http.get("/v1/conversations/gone")).json()["conversation"]
        assert (summary["state"], summary["title"]) == ("erased", None)
    for model in READ_MODELS:
        held_now = await asyncio.to_thread(held, database_url, model)
        assert held_now == await asyncio.to_thread(reference, database_url, model)
