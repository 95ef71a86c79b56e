"""Conversations from elsewhere come into the log whole, once, and read back as they were."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.asking import query
from tests.command_line import environment, minutebook
from tests.forking import Forked
from tests.opened import opened_log
from tests.projecting import wait_until
from tests.serving import serving_reads

pytestmark = pytest.mark.no_cover  # it doubles the time, and shows no line that others do not

CHAT = {
    "id": "chat-1",
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Read "}, {"type": "text", "text": "a.txt"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "x",
                    "type": "function",
                    "function": {"name": "read_file", "arguments": '{"path":"a"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "x", "content": "hello"},
        {"role": "assistant", "content": "It says hello."},
    ],
}


COUNTED = "SELECT conversation, count(*) FROM log GROUP BY conversation"


async def imported(file: Path, url: str, *options: str) -> tuple[int, dict[str, Any], str]:
    done = await asyncio.to_thread(
        minutebook, file.parent, "import", str(file), "--json", *options, database_url=url
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def stored(url: str) -> list[tuple[str, str, Any]]:
    return [(row.conversation, row.type, json.loads(row.data)) for row in opened_log(url)]


@pytest.mark.parametrize("form", ["object", "array", "lines"])
async def test_a_chat_is_imported_in_every_form_and_only_once(
    form: str, database_url: str, tmp_path: Path
) -> None:
    other = {"messages": CHAT["messages"]}
    text = {
        "object": json.dumps(CHAT, indent=1),
        "array": json.dumps([CHAT, other]),
        "lines": f"{json.dumps(CHAT)}\n\n{json.dumps(other)}\n",
    }[form]
    file = tmp_path / "chats"
    file.write_text(text)
    count = 1 if form == "object" else 2
    code, said, _ = await imported(file, database_url)
    assert (code, said["imported"], said["already_there"], said["bad"]) == (0, count, 0, 0)
    before = stored(database_url)
    code, said, _ = await imported(file, database_url)
    assert (code, said["imported"], said["already_there"]) == (0, 0, count)
    assert stored(database_url) == before
    assert [kind.partition(".")[2] for where, kind, _ in before if where == "chat-1"] == [
        "started",
        "assigned",
        "user_message_received",
        "tool_call_requested",
        "tool_result_received",
        "assistant_message_sent",
    ]


async def test_a_bad_line_is_reported_with_its_number_and_the_rest_is_imported(
    database_url: str, tmp_path: Path
) -> None:
    bad = [
        "{not json",
        '{"id": "a"}',
        '{"id": "b", "messages": [{"role": "tool", "tool_call_id": "nobody", "content": "x"}]}',
        '{"id": "c", "messages": [{"role": "owl", "content": "hoo"}]}',
        '{"id": "no good", "messages": [{"role": "user", "content": "x"}]}',
        '{"id": "d", "messages": [{"role": "user", "content": "nul \\u0000"}]}',
        '{"id": "e", "messages": [{"role": "assistant"}]}',
        '{"id": "f", "messages": ["hello"]}',
        '{"id": "g", "messages": [{"role": "function", "name": "nothing", "content": "x"}]}',
        '{"id": "chat-1", "messages": [{"role": "user", "content": "something else"}]}',
    ]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join([json.dumps(CHAT), *bad, json.dumps({**CHAT, "id": "chat-2"})]))
    code, said, errors = await imported(file, database_url)
    assert (code, said["imported"], said["bad"]) == (1, 2, len(bad))
    reported = [line.partition(":")[0] for line in errors.splitlines() if line.partition(":")[0].isdigit()]
    assert sorted(map(int, reported)) == list(range(2, len(bad) + 2))
    assert "another conversation has its id" in errors
    assert {where for where, _, _ in stored(database_url)} == {"chat-1", "chat-2"}


async def test_arguments_that_are_no_json_object_are_kept_as_their_text(
    database_url: str, tmp_path: Path
) -> None:
    odd = ["[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, '{"a": NaN}', '{"a": 1e999}', "9" * 5_000]
    calls = [
        {"id": str(number), "type": "function", "function": {"name": "read_file", "arguments": arguments}}
        for number, arguments in enumerate(odd)
    ]
    said = [{"role": "user", "content": "Read."}, {"role": "assistant", "content": None, "tool_calls": calls}]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(json.dumps(chat) for chat in ({"id": "odd", "messages": said}, CHAT)))
    code, counts, errors = await imported(file, database_url)
    assert (code, counts["imported"], counts["bad"]) == (0, 2, 0), errors
    kept = [data for where, kind, data in stored(database_url) if where == "odd" and "requested" in kind]
    assert [call["arguments"] for call in kept] == odd


async def test_arguments_that_are_a_list_or_a_number_are_kept(database_url: str, tmp_path: Path) -> None:
    odd: list[Any] = [["a", {"b": 1}], [], 7, 0, False, 1.5, "[1, 2]", {"path": "a"}, None]
    calls = [
        {"id": str(number), "type": "function", "function": {"name": "read_file", "arguments": arguments}}
        for number, arguments in enumerate(odd)
    ]
    said = [{"role": "user", "content": "Read."}, {"role": "assistant", "content": None, "tool_calls": calls}]
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"id": "odd", "messages": said}))
    code, counts, errors = await imported(file, database_url)
    assert (code, counts["imported"], counts["bad"]) == (0, 1, 0), errors
    kept = [data["arguments"] for _, kind, data in stored(database_url) if "requested" in kind]
    assert kept == [*odd[:-1], {}]


async def test_what_is_nested_too_deeply_is_reported_however_deep_it_is(
    database_url: str, tmp_path: Path
) -> None:
    depths = range(1100, 800, -5)  # the reader of JSON gives up somewhere here, its writer somewhere else
    bad = [f'{{"messages": [{{"role": "user", "x": {"[" * deep}{"]" * deep}}}]}}' for deep in depths]
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join([*bad, json.dumps(CHAT)]))
    code, counts, errors = await imported(file, database_url)
    assert (code, counts["imported"], counts["bad"]) == (1, 1, len(bad)), errors


@pytest.mark.parametrize(("option", "value"), [("--agent", "codr"), ("--subject", "a b")])
async def test_an_agent_or_a_subject_that_there_cannot_be_is_refused_before_anything_is_imported(
    option: str, value: str, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "chats.json"
    file.write_text(json.dumps(CHAT))
    options = ("import", str(file), option, value)
    done = await asyncio.to_thread(minutebook, tmp_path, *options, database_url=database_url)
    assert done.returncode == 2
    assert value in done.stderr
    assert "Traceback" not in done.stderr
    assert stored(database_url) == []


async def test_the_real_conversations_read_back_as_the_file_has_them(
    database_url: str, tmp_path: Path, airline_conversations: list[dict[str, Any]]
) -> None:
    file = tmp_path / "airline.jsonl"
    file.write_text("\n".join(map(json.dumps, airline_conversations)))
    code, said, errors = await imported(file, database_url)
    assert (code, said["imported"], said["bad"]) == (0, len(airline_conversations), 0), errors
    async with serving_reads(database_url) as server:
        head = said["events"]
        for conversation in airline_conversations:
            entries = await _transcript(server.client.http, conversation["id"], head)
            assert _as_messages(entries) == _expected(conversation["messages"])


@pytest.mark.may_block("the import is another process")
async def test_an_import_killed_in_the_middle_leaves_whole_conversations_and_is_repeated(
    database_url: str, tmp_path: Path, airline_conversations: list[dict[str, Any]]
) -> None:
    many = [{**chat, "id": f"{chat['id']}-{n}"} for n in range(8) for chat in airline_conversations]
    file = tmp_path / "airline.jsonl"
    file.write_text("\n".join(map(json.dumps, many)))
    with (tmp_path / "said").open("wb") as said:
        variables = environment({"database_url": database_url})
        process = Forked(["import", str(file)], tmp_path, variables, said, said)
        wait_until(lambda: bool(query(database_url, COUNTED)))
        process.kill()
        process.wait(10)
    left = dict(query(database_url, COUNTED))
    assert 0 < len(left) < len(many), "it was not killed in the middle"
    code, counts, errors = await imported(file, database_url)
    assert (code, counts["already_there"], counts["bad"]) == (0, len(left), 0), errors
    whole = dict(query(database_url, COUNTED))
    assert len(whole) == len(many)
    assert whole.items() >= left.items(), "a conversation was not whole"


async def _transcript(http: Any, conversation_id: str, position: int) -> list[dict[str, Any]]:
    path = f"/v1/conversations/{conversation_id}/messages"
    response = await http.get(path, params={"min_position": position, "limit": 200})
    assert response.status_code == 200, response.text
    entries: list[dict[str, Any]] = response.json()["entries"]
    return entries


def _as_messages(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for entry in entries:
        detail = entry["detail"]
        if entry["kind"] == "message":
            said.append((detail["role"], entry["text"]))
        elif entry["kind"] == "call":
            result = detail["outcome"] and detail["outcome"].get("result")
            said.append(("call", detail["model_call_id"], detail["tool"], detail["arguments"], result))
    return said


def _expected(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    open_calls: dict[str, int] = {}
    for message in messages:
        if message["role"] == "tool":
            place = open_calls.pop(message["tool_call_id"])
            said[place] = (*said[place][:4], message["content"])
            continue
        if message.get("content"):
            said.append((message["role"], message["content"]))
        for call in message.get("tool_calls") or []:
            open_calls[call["id"]] = len(said)
            said.append(("call", call["id"], call["name"], json.loads(call["arguments"]), None))
    return said
