"""The log as files: whole, in three forms, and with a manifest that knows every byte."""

import asyncio
import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from application.errors import InvalidFilterError
from application.exporting import ExportError, Selection, selected
from infrastructure.exports.operating import check_export, write_export
from infrastructure.exports.selecting import WINDOW
from infrastructure.postgres.mapper import PlainJson
from tests.command_line import minutebook
from tests.exported import append, fill, lines_of, manifest_of, positions, stored, table_of
from tests.opened import vault
from tests.serving import serving

FORMS = ("ndjson", "csv", "parquet")


def written(url: str, file: Path, form: Any, selection: Selection | None = None) -> Path:
    manifest = write_export(url, vault(), selection or Selection(), form, file)
    assert manifest
    return file


def rows_of(file: Path, form: str) -> list[dict[str, Any]]:
    if form == "parquet":
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return rows
    return lines_of(file) if form == "ndjson" else [dict(row) for row in table_of(file)]


@pytest.mark.parametrize("form", FORMS)
def test_an_export_has_every_event_with_every_column(form: str, database_url: str, tmp_path: Path) -> None:
    fill(database_url, 230)
    rows = rows_of(written(database_url, tmp_path / "log", form), form)
    log = stored(database_url)
    assert len(rows) == len(log) == 230
    for row, event in zip(rows, log, strict=True):
        position, recorded_at, version, *texts, data = event
        if form == "parquet":
            assert row["recorded_at"] == recorded_at
        else:
            assert row["recorded_at"] == recorded_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert (int(row["position"]), int(row["version"])) == (position, version)
        assert [row[name] for name in ("stream", "type", "conversation", "turn", "actor")] == texts
        told = row["data"] if form == "ndjson" else json.loads(row["data"])
        assert told == json.loads(bytes(data))
        if form == "ndjson":
            assert base64.b64decode(row["stored"], validate=True) == bytes(data)


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_log_is_exported_too(form: str, database_url: str, tmp_path: Path) -> None:
    file = written(database_url, tmp_path / "log", form)
    assert rows_of(file, form) == []
    assert check_export(tmp_path / "log.manifest.json", lambda _, __: None).reason is None


@pytest.mark.parametrize("form", FORMS)
def test_the_manifest_says_range_count_and_digests(form: str, database_url: str, tmp_path: Path) -> None:
    fill(database_url, WINDOW + 500)
    file = written(database_url, tmp_path / "log", form, Selection(first=301))
    said, content = manifest_of(file), file.read_bytes()
    assert (said["first"], said["last"], said["count"]) == (301, WINDOW + 500, WINDOW + 200)
    assert (said["bytes"], said["sha256"]) == (len(content), sha256(content).hexdigest())
    assert [(chunk["first"], chunk["last"]) for chunk in said["chunks"]] == [
        (301, WINDOW + 300),
        (WINDOW + 301, WINDOW + 500),
    ]
    start = 0
    for chunk in said["chunks"]:
        assert chunk["sha256"] == sha256(content[start : chunk["end"]]).hexdigest()
        start = chunk["end"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.manifest.json"]


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_export_is_found_out_with_the_place(form: str, database_url: str, tmp_path: Path) -> None:
    fill(database_url, WINDOW + 500)
    file = written(database_url, tmp_path / "log", form)
    whole, manifest = file.read_bytes(), tmp_path / "log.manifest.json"
    second = manifest_of(file)["chunks"][0]["end"]
    changed = bytearray(whole)
    changed[second + 40] ^= 1
    for content, chunk, reason in (
        (bytes(changed), 2, "its bytes are not those"),
        (whole[: second + 10], 2, "the file ends within it"),
        (whole[:10], 1, "the file ends within it"),
        (whole + b"x", None, "goes on behind"),
        (whole[second:] + whole[:second], 1, "its bytes are not those"),
    ):
        file.write_bytes(content)
        found = check_export(manifest, lambda _, __: None)
        assert found.chunk == chunk
        assert reason in str(found.reason)
        if chunk == 2:
            assert (found.first, found.last) == (WINDOW + 1, WINDOW + 500)
    file.write_bytes(whole)
    assert check_export(manifest, lambda _, __: None).reason is None


@pytest.mark.parametrize(
    "change",
    [
        {"count": 3}, {"bytes": 1}, {"first": 2}, {"last": 90}, {"format": "xml"}, {"file": "../log"},
        {"manifest": "x"}, {"chunks": []}, {"chunks": [{"first": 1}]}, {"manifest_version": 2},
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself_is_refused(
    change: dict[str, Any], database_url: str, tmp_path: Path
) -> None:
    fill(database_url, 20)
    file = written(database_url, tmp_path / "log", "ndjson")
    manifest = tmp_path / "log.manifest.json"
    manifest.write_text(json.dumps({**manifest_of(file), **change}))
    with pytest.raises(ExportError):
        check_export(manifest, lambda _, __: None)


def test_a_manifest_whose_whole_digest_was_changed_is_found_out(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 20)
    file = written(database_url, tmp_path / "log", "ndjson")
    manifest = tmp_path / "log.manifest.json"
    manifest.write_text(json.dumps({**manifest_of(file), "sha256": "0" * 64}))
    assert "whole file" in str(check_export(manifest, lambda _, __: None).reason)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((None, None, "c3", ()), range(31, 41)),
        (("35", "37", "c3", ()), range(35, 38)),
        ((None, None, None, ("conversation.started",)), range(1, 101, 10)),
        ((None, None, None, ("conversation.s*", "conversation.user_?essage_received")), None),
        (("20", "40", None, ()), range(20, 41)),
        # An event is recorded a millionth of a second behind its second.
        (("2026-03-01T00:00:30", "2026-03-01T00:00:40Z", None, ()), range(30, 40)),
        (("2026-03-01T01:00:30+01:00", "33", None, ()), range(30, 34)),
        (("2027-01-01", None, None, ()), ()),
        ((None, "2020-01-01", None, ()), ()),
        ((None, None, "nobody", ()), ()),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_an_export_can_be_narrowed_down(
    form: str, asked: tuple[Any, ...], expected: Any, database_url: str, tmp_path: Path
) -> None:
    fill(database_url, 100)
    if expected is None:
        expected = [n for n in range(1, 101) if n % 10 == 1 or n % 2 == 0]
    file = written(database_url, tmp_path / "log", form, selected(*asked))
    assert positions(rows_of(file, form)) == list(expected)
    assert check_export(tmp_path / "log.manifest.json", lambda _, __: None).reason is None


@pytest.mark.parametrize(
    "asked",
    [
        ("x", None, None, ()), (None, "2026-13-01", None, ()), (None, None, "no id", ()),
        (None, None, None, ("Conversation",)),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_refused(asked: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidFilterError):
        selected(*asked)


def test_a_range_that_is_not_there_is_refused(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 10)
    for selection in (Selection(last=11), Selection(first=8, last=5), Selection(first=12)):
        with pytest.raises(ExportError):
            written(database_url, tmp_path / "log", "csv", selection)


# --- nasty values ---------------------------------------------------------------------------------

texts = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=30),
    st.sampled_from(
        ['"', '""', "\r\n", "a\nb", "\ud800", "x\udfff", "=1+1", "@x", "\u2028", "\\", ",", "😀"]
    ),
)
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
    )
    | st.integers(min_value=10**300, max_value=10**301),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.no_cover  # it doubles the time, and shows no line that others do not
@given(st.lists(st.dictionaries(texts.filter(lambda key: key != "class_version"), values), max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_said_comes_out_of_every_form_as_it_was(
    database_url: str, tmp_path: Path, datas: list[dict[str, Any]]
) -> None:
    before = len(stored(database_url))
    append(database_url, [PlainJson().encode(data) for data in datas])
    for form in FORMS:
        file = tmp_path / f"{before}.{form}"
        file.unlink(missing_ok=True)
        rows = rows_of(written(database_url, file, form, Selection(first=before + 1)), form)
        told = [row["data"] if form == "ndjson" else json.loads(row["data"]) for row in rows]
        assert [json.dumps(one) for one in told] == [json.dumps(data) for data in datas]


def test_an_event_that_cannot_be_read_is_exported_as_it_is(database_url: str, tmp_path: Path) -> None:
    append(database_url, [b"\x00\xff no JSON", b"[1]", b'{"content":"well"}'])
    rows = lines_of(written(database_url, tmp_path / "log", "ndjson"))
    assert [row["data"] for row in rows] == [{"unreadable": True}, {"unreadable": True}, {"content": "well"}]
    assert base64.b64decode(rows[0]["stored"]) == b"\x00\xff no JSON"


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


# --- the doors ------------------------------------------------------------------------------------


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
    assert (checked.returncode, checked.stdout) == (
        0,
        "50 events, positions 1 to 50: as they were exported.\n",
    )
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
