"""What cannot be taken is refused before the stream opens: with the right code, and nothing stored."""

import asyncio
import json
import re

import httpx
import pytest

from tests.integration.bad_input import (
    BAD_IDS,
    CALL,
    DECIDE,
    GOOD_IDS,
    HELLO,
    NO_MESSAGE,
    NO_REQUEST,
    NOT_JSON,
    PLAN,
)
from tests.integration.streams import log_of, rows, turns_of, types
from tests.serving import Serving, serving

REFUSED = (422, "invalid_message")


async def post(server: Serving, body: bytes, **headers: str) -> httpx.Response:
    """Send a body as it is."""
    headers = {"Content-Type": "application/json", **headers}
    return await server.client.http.post("/v1/messages/stream", content=body, headers=headers)


def problem_of(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of a refusal, checking its shape."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert body["status"] == response.status_code
    assert set(body) == {"type", "status", "code", "title", "detail", "retryable"}
    assert len(body["detail"]) < 500
    assert "{" not in body["detail"].replace("{}", "")
    return response.status_code, body["code"]


async def nothing_happened(server: Serving, database_url: str) -> None:
    """Check that nothing is stored and that the server still works."""
    assert await turns_of(database_url) == []
    assert await log_of(database_url) == []
    assert types(await server.client.say("still there?"))[-1] == "assistant_message_sent"


async def test_what_is_no_json_is_refused(database_url: str) -> None:
    async with serving(database_url) as server:
        for name, body in NOT_JSON.items():
            assert problem_of(await post(server, body)) == (400, "invalid_json"), name
        await nothing_happened(server, database_url)


async def test_what_is_no_message_is_refused(database_url: str) -> None:
    async with serving(database_url) as server:
        for body in NO_REQUEST:
            response = await post(server, json.dumps(body).encode())
            assert problem_of(response) == (422, "invalid_message"), body
        for message in NO_MESSAGE:
            response = await post(server, json.dumps({"message": message}).encode())
            assert problem_of(response) == (422, "invalid_message"), message
        too_large = b'{"message": {"type": "tool_result", "call_id": "c", "result": 1e999}}'
        assert problem_of(await post(server, too_large)) == (422, "invalid_message")
        await nothing_happened(server, database_url)


async def test_a_refusal_names_neither_our_classes_nor_our_language(database_url: str) -> None:
    async with serving(database_url) as server:
        for body in (b"null", b"[]", b'"text"', b"1", NOT_JSON["byte order mark"]):
            detail = (await post(server, body)).json()["detail"]
            assert not re.search(r"Asked|dictionary|instance|decode|utf-8-sig", detail), detail


async def test_two_idempotency_keys_that_differ_are_refused(database_url: str) -> None:
    async with serving(database_url) as server:
        say, amend = server.client.http.post, server.client.http.patch
        keys = [("Idempotency-Key", "t-1"), ("Idempotency-Key", "t-2")]
        body = json.dumps({"message": HELLO}).encode()
        assert problem_of(await say("/v1/messages/stream", content=body, headers=keys)) == REFUSED
        assert problem_of(await amend("/v1/conversations/x", json={"title": "x"}, headers=keys)) == REFUSED
        await nothing_happened(server, database_url)
        twice = [keys[0], keys[0]]
        assert b"turn.committed" in (await say("/v1/messages/stream", content=body, headers=twice)).content


async def test_ids_out_of_the_alphabet_are_refused(database_url: str) -> None:
    async with serving(database_url) as server:
        for field in ("conversation_id", "turn_id"):
            for bad in BAD_IDS:
                response = await post(server, json.dumps({field: bad, "message": HELLO}).encode())
                assert problem_of(response) == (422, "invalid_message"), (field, bad)
        for bad in (".a", "a b", "a/b", "a" * 256, "a,b"):
            response = await post(server, json.dumps({"message": HELLO}).encode(), **{"Idempotency-Key": bad})
            assert problem_of(response) == (422, "invalid_message"), bad
        await nothing_happened(server, database_url)


async def test_every_id_of_the_alphabet_is_taken(database_url: str) -> None:
    async with serving(database_url) as server:
        for good in GOOD_IDS:
            frames = await server.client.say("hi", conversation_id=good, turn_id=good)
            assert (frames[0].data["conversation_id"], frames[0].data["turn_id"]) == (good, good)
            assert (await server.client.read_turn(good))[-1] == frames[-1]


async def test_an_unknown_conversation_is_404_for_all_but_a_user_message(database_url: str) -> None:
    async with serving(database_url) as server:
        for message in (
            {**CALL, "result": 1},
            {"type": "switch_agent", "agent": "ask"},
            {**DECIDE, "decision": "approve"},
            {**PLAN, "decision": "approve"},
        ):
            for where in ({"conversation_id": "nowhere"}, {}):
                response = await post(server, json.dumps({**where, "message": message}).encode())
                assert problem_of(response) == (404, "conversation_not_found"), message
        await nothing_happened(server, database_url)


async def test_an_unknown_agent_is_refused_and_the_known_ones_are_named(database_url: str) -> None:
    async with serving(database_url) as server:
        for agent in ("nobody", "Coder", "x" * 255, "{agents}"):
            for message in ({**HELLO, "agent": agent}, {"type": "switch_agent", "agent": agent}):
                response = await post(server, json.dumps({"message": message}).encode())
                assert response.json()["code"] == "agent_not_found"
                assert response.status_code == 404
                assert "orchestrator" in response.json()["detail"]
                assert len(response.json()["detail"]) < 1000
        await nothing_happened(server, database_url)


async def test_an_oversized_body_is_refused_before_it_is_read_to_its_end(database_url: str) -> None:
    async with serving(database_url, max_message_bytes=4096) as server:
        body = b'{"message": {"type": "user_message", "content": "' + b"x" * 20_000_000 + b'"}}'
        assert problem_of(await post(server, body)) == (413, "message_too_large")
        padded = json.dumps({"message": HELLO}).encode() + b" " * 200_000
        assert problem_of(await post(server, padded)) == (413, "message_too_large")
        await nothing_happened(server, database_url)


@pytest.mark.parametrize("megabytes", [6, 4, 2])
async def test_a_body_of_millions_of_small_values_is_refused_and_keeps_nobody_waiting(
    database_url: str, megabytes: int
) -> None:
    values = b"0," * (megabytes * 500_000)
    body = b'{"message": {"type": "tool_result", "call_id": "c", "result": [' + values + b"0]}}"
    async with serving(database_url) as server:
        assert problem_of(await post(server, body)) == (413, "message_too_large")
        at_the_origins = await server.client.http.post(
            "/agent/message/stream", content=body.replace(b"{", b'{"session_id": "c", ', 1)
        )
        assert (at_the_origins.status_code, at_the_origins.json().keys()) == (413, {"detail"})
        await nothing_happened(server, database_url)


async def test_a_body_that_breaks_off_stores_nothing(database_url: str) -> None:
    body = json.dumps({"message": HELLO}).encode()
    heads = [
        f"Content-Length: {len(body) + 50}\r\n\r\n".encode() + body,
        b"Content-Length: 100000000000\r\n\r\n" + body,
        b"Transfer-Encoding: chunked\r\n\r\n" + f"{len(body):x}\r\n".encode() + body,
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body,
        b"Content-Length: -1\r\n\r\n" + body,
        b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n" + body,
    ]
    async with serving(database_url) as server:
        url = httpx.URL(server.url)
        for head in heads:
            _, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(
                b"POST /v1/messages/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head
            )
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.1)
        await nothing_happened(server, database_url)


async def test_a_shorter_content_length_than_the_body_is_refused(database_url: str) -> None:
    body = json.dumps({"message": HELLO}).encode()
    async with serving(database_url) as server:
        url = httpx.URL(server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST /v1/messages/stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) - 3}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.read(4096), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400")
        await nothing_happened(server, database_url)


async def test_strange_addresses_and_methods_are_answered_in_the_same_shape(database_url: str) -> None:
    async with serving(database_url) as server:
        http = server.client.http
        assert problem_of(await http.get("/v1/nothing")) == (404, "not_found")
        assert problem_of(await http.get("/v1/messages/stream")) == (405, "method_not_allowed")
        refused = await http.put("/v1/turns/x")
        assert problem_of(refused) == (405, "method_not_allowed")
        assert refused.headers["allow"] == "GET"
        assert (await http.delete("/v1/conversations/x")).headers["allow"] == "GET, PATCH"
        assert (await http.delete("/")).headers["allow"] == "GET, HEAD"
        assert (await http.head("/v1/messages/stream")).headers["allow"] == "POST"
        assert await rows(database_url, "SELECT count(*) FROM turns") == [(0,)]
