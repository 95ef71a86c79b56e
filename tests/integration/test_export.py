"""The log as files: whole, in three forms, and with a manifest that knows every byte."""

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from application.errors import InvalidFilterError
from application.exporting import ExportError, Selection, selected
from infrastructure.exports.operating import check_export
from infrastructure.exports.selecting import WINDOW
from infrastructure.postgres.mapper import PlainJson
from tests.exported import (
    FORMS,
    append,
    fill,
    lines_of,
    manifest_of,
    positions,
    rows_of,
    stored,
    written,
)


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
        (None, None, None, ("Conversation",)), ("8", "5", None, ()), ("2026-03-01", "2026-03-01", None, ()),
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
