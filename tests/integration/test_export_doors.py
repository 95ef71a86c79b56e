"""Exports as they are asked for: by the command and by the address, of a log that is sealed and erased."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from application.exporting import selected
from tests.command_line import minutebook
from tests.exported import (
    FORMS,
    fill,
    lines_of,
    rows_of,
    written,
)
from tests.serving import serving


async def test_what_is_sealed_is_told_by_every_door_until_it_is_erased(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url) as server:
        await server.client.say("help quokkaphone", conversation_id="a")
        await server.client.say("help xylotomography", conversation_id="b")
        before = await asyncio.to_thread(written, database_url, tmp_path / "before", "ndjson")
        answer = await server.client.http.post("/v1/conversations/b/erase", json={})
        assert answer.status_code == 200, answer.text
        streamed = {
            form: (await server.client.http.get("/v1/audit/export", params={"format": form})).content
            for form in FORMS
        }
    files = [
        await asyncio.to_thread(written, database_url, tmp_path / f"after.{form}", form) for form in FORMS
    ]
    first, *_ = [line for line in lines_of(before) if line["type"].endswith("user_message_received")]
    assert first["data"]["content"] == "help quokkaphone"
    assert b"quokkaphone" not in base64.b64decode(first["stored"])
    assert b"xylotomography" in before.read_bytes()
    for form, file in zip(FORMS, files, strict=True):
        (tmp_path / form).write_bytes(streamed[form])
        for written_rows in (rows_of(file, form), rows_of(tmp_path / form, form)):
            said = json.dumps(written_rows, default=str)
            assert ("quokkaphone" in said, "xylotomography" in said, "erased" in said) == (True, False, True)
    assert [line["stored"] for line in lines_of(before)] == [
        line["stored"] for line in lines_of(files[0])[: len(lines_of(before))]
    ]


def test_the_command_writes_checks_and_refuses(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 50)

    def run(*arguments: str) -> Any:
        return minutebook(tmp_path, "audit", *arguments, database_url=database_url)

    done = run("export", "--to", "log.csv", "--format", "csv", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["phase"], told["count"], told["format"]) == ("written", 50, "csv")
    again = run("export", "--to", "log.csv")
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    assert run("export", "--to", "log.x", "--format", "xml").returncode == 2
    assert run("export", "--to", "nowhere/log.csv").returncode == 1
    checked = run("verify-export", "log.csv.manifest.json")
    sentence = "50 events, positions 1 to 50: as they were exported.\n"
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, sentence, "")
    checked = run("verify-export", "log.csv")
    assert (checked.returncode, checked.stdout) == (1, "")
    assert checked.stderr.startswith("minutebook: The export cannot be checked: log.csv is no manifest")
    (tmp_path / "log.csv").write_bytes((tmp_path / "log.csv").read_bytes().replace(b"number 7", b"number 8"))
    checked = run("verify-export", "log.csv.manifest.json", "--json")
    found = json.loads(checked.stdout.splitlines()[-1])
    assert (checked.returncode, found["ok"], found["chunk"], found["first"]) == (3, False, 1, 1)


@pytest.mark.parametrize("form", FORMS)
async def test_the_address_streams_what_the_command_writes(
    form: str, database_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(fill, database_url, 3_300)
    selection = selected("11", None, None, ["conversation.*sent"])
    file = await asyncio.to_thread(written, database_url, tmp_path / "log", form, selection)
    query = {"format": form, "from": "11", "type": "conversation.*sent"}
    async with serving(database_url) as server:
        answer = await server.client.http.get("/v1/audit/export", params=query)
    assert answer.status_code == 200
    assert answer.headers["Minutebook-Position"] == "3300"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="minutebook-11-3300.{form}"'
    streamed = tmp_path / "streamed"
    await asyncio.to_thread(streamed.write_bytes, answer.content)
    assert await asyncio.to_thread(rows_of, streamed, form) == await asyncio.to_thread(rows_of, file, form)
    assert form == "parquet" or streamed.read_bytes() == file.read_bytes()


async def test_the_address_is_for_auditors_and_says_what_is_wrong(database_url: str) -> None:
    headers = {"identity_header": "X-Subject", "scopes_header": "X-Scopes"}
    async with serving(database_url, **headers) as server:

        async def status(scopes: str, **query: str) -> int:
            given = {"X-Subject": "anna", "X-Scopes": scopes}
            answer: httpx.Response = await server.client.http.get(
                "/v1/audit/export", params=query, headers=given
            )
            return answer.status_code

        assert await status("chat operate") == 403
        assert await status("audit") == 200
        for wrong in ({"format": "xml"}, {"from": "x"}, {"until": "9"}, {"conversation": "a b"}):
            assert await status("audit", **wrong) == 422, wrong
