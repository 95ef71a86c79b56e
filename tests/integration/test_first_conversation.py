"""The shortest proof that the house stands: one message in, one answer out, both in the log."""

import psycopg

from tests.serving import serving_reads


async def test_a_message_is_answered_and_both_are_in_the_log(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        frames = await server.client.say("help")
    assert [frame.type for frame in frames if frame.type != "turn.delta"] == [
        "turn.started",
        "conversation.started",
        "agent.assigned",
        "conversation.user_message_received",
        "agent.model_called",
        "conversation.assistant_message_sent",
        "turn.committed",
    ]
    said = "".join(frame.data["text"] for frame in frames if frame.type == "turn.delta")
    assert frames[-2].data["data"]["content"] == said
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT position, type FROM log ORDER BY position").fetchall()
    committed = [frame for frame in frames if "position" in frame.data]
    assert stored == [(frame.data["position"], frame.type) for frame in committed]


async def test_a_page_of_another_site_cannot_use_the_server_in_its_readers_name(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        body = {"message": {"type": "user_message", "content": "help"}}
        for origin, status in (("https://elsewhere.example", 403), ("null", 403), (server.url, 200)):
            response = await server.client.http.post(
                "/v1/messages/stream", json=body, headers={"Origin": origin}
            )
            assert response.status_code == status, origin


async def test_a_name_that_somebody_pointed_at_this_machine_is_not_answered(database_url: str) -> None:
    async with serving_reads(database_url) as server:
        for host, status in (("evil.example:8000", 403), ("localhost:1", 200), ("[::1]", 200)):
            response = await server.client.http.get("/v1/conversations", headers={"Host": host})
            assert response.status_code == status, host
