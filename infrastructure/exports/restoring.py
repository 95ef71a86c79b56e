"""An export in NDJSON, taken into an empty store: the same log, bit by bit, or nothing at all."""

import json
from binascii import a2b_base64
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import psycopg

from application.exporting import ExportError, Manifest, RestoreError
from infrastructure.exports import key_file, manifests
from infrastructure.exports.selecting import TYPES
from infrastructure.postgres.connections import arguments
from infrastructure.vault import SEALED, Vault

_START: Final = b'{"position":'
_EMPTY: Final = """
    SELECT NOT EXISTS (SELECT FROM log) AND NOT EXISTS (SELECT FROM turns)
       AND NOT EXISTS (SELECT FROM keys.conversations)"""
_COPY: Final = """
    COPY log (position, stream, version, type, conversation, turn, actor, recorded_at, data)
    FROM STDIN (FORMAT binary)"""
# Their contents would be lost without a word, and be taken for erased or damaged.
_KEYLESS: Final = """
    SELECT conversation FROM log
     WHERE substr(data, 1, 1) = %s
       AND NOT EXISTS (SELECT FROM keys.conversations AS k WHERE k.conversation = log.conversation) LIMIT 1"""
_REPORT_EVERY: Final = 5_000
# A turn that was committed is not run again when somebody sends it again: its row says where its events are.
# What was asked is not known any more, so no message is the same as it.
_TURNS: Final = """
    INSERT INTO turns (accepted_at, lease_until, ended_at, first_position, last_position, id, conversation,
                       subject, kind, state, node, payload_hash)
    SELECT min(recorded_at), min(recorded_at), max(recorded_at), min(position), max(position), turn,
           min(conversation), min(substr(actor, 6)) FILTER (WHERE actor LIKE 'user:%'),
           coalesce(min(CASE
               WHEN type = 'conversation.user_message_received' THEN 'user_message'
               WHEN type = 'conversation.tool_result_received' THEN 'tool_result'
               WHEN type = 'agent.switched' THEN 'switch_agent'
               WHEN type IN ('conversation.tool_call_approved', 'conversation.tool_call_edited',
                             'conversation.tool_call_rejected') THEN 'hitl_decision'
               WHEN type IN ('conversation.plan_approved', 'conversation.plan_modification_requested',
                             'conversation.plan_rejected') THEN 'plan_decision'
               END) FILTER (WHERE actor LIKE 'user:%'), 'amend'),
           'committed', 'restored', ''
      FROM log WHERE turn <> '' GROUP BY turn HAVING bool_or(actor LIKE 'user:%')"""

OnEvents = Callable[[int, int, int], None]  # events, bytes read, of how many


def is_export(path: Path) -> bool:
    """Whether a file begins as our exports in NDJSON do."""
    try:
        with path.open("rb") as file:
            return file.read(len(_START)) == _START
    except OSError:
        return False


def restore(url: str, path: Path, vault: Vault, on_events: OnEvents = lambda _, __, ___: None) -> int:
    """Take an export of a whole log into an empty store; returns how many events it has now.

    One transaction: it is there whole or not at all, and nobody appends meanwhile. Raises `RestoreError`
    where the store is not empty, the file is not the one of its manifest or does not begin at position 1 and
    go on without a gap, and where it is sealed and has no keys beside it, not
    all of them, or those of another master key.
    """
    manifest = _manifest(path)
    with closing(psycopg.Connection.connect(url, **arguments("minutebook restore", 0))) as connection:
        try:
            with connection.transaction():
                count = _restored(connection, path, manifest, vault, on_events)
        except psycopg.errors.UniqueViolation:
            raise RestoreError(reason="it has two events with the same version of a stream") from None
        except psycopg.DataError:
            raise RestoreError(reason="it has a value that the log does not take") from None
        connection.execute("ANALYZE log, turns")
    return count


def _manifest(path: Path) -> Manifest | None:
    beside = manifests.path_of(path)
    try:
        return manifests.read(beside) if beside.exists() else None
    except ExportError as error:
        raise RestoreError(reason=str(error.details["reason"])) from None


def _restored(
    connection: psycopg.Connection, path: Path, manifest: Manifest | None, vault: Vault, on_events: OnEvents
) -> int:
    connection.execute("SELECT pg_advisory_xact_lock(append_lock())")
    empty = connection.execute(_EMPTY).fetchone()
    if not empty or not empty[0]:
        raise RestoreError(reason="the store is not empty, and an export is taken into an empty one only")
    keys = key_file.path_of(path)
    if keys.exists():
        key_file.restore(connection, keys, vault)
    reading = _Reading(path, is_openable=keys.exists())
    with connection.cursor().copy(_COPY) as copy:
        copy.set_types(TYPES)
        for values in reading.rows():
            copy.write_row(values)
            if reading.count % _REPORT_EVERY == 0:
                on_events(reading.count, reading.read, reading.size)
    if manifest and (reading.read, reading.digest.hexdigest()) != (manifest.bytes, manifest.sha256):
        raise RestoreError(reason=f"{path} is not what its manifest says; `audit verify-export` says where")
    keyless = connection.execute(_KEYLESS, [SEALED]).fetchone()
    if keyless:
        raise RestoreError(reason=f"{keys} has no key of the conversation {keyless[0]}")
    connection.execute(_TURNS)
    return reading.count


class _Reading:
    """The file, line by line: how far, and the digest of what was read."""

    def __init__(self, path: Path, *, is_openable: bool) -> None:
        self._path = path
        self._is_openable = is_openable
        self.count = 0
        self.read = 0
        self.digest = sha256()
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise RestoreError(reason=f"{path} cannot be read ({error.strerror})") from None

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the columns of every event. Raises `RestoreError`."""
        with self._path.open("rb") as file:
            for line in file:
                self.count += 1
                self.read += len(line)
                self.digest.update(line)
                yield self._row(line)

    def _row(self, line: bytes) -> tuple[Any, ...]:
        try:
            values = values_of(line)
        except ValueError:
            reason = "it is not one of an export, with stored bytes"
        else:
            if not self._is_openable and values[-1].startswith(SEALED):
                raise RestoreError(
                    reason=f"it is sealed, and its keys, {key_file.path_of(self._path)}, are missing"
                )
            if values[0] == self.count:
                return values
            reason = f"its position is {values[0]}, and a log has no gaps"
        raise RestoreError(reason=f"line {self.count} of {self._path}: {reason}")


def values_of(line: bytes) -> tuple[Any, ...]:
    """Return the columns that a line of an export has. Raises `ValueError` for a line that is none."""
    try:
        return _values(json.loads(line))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _values(said: dict[str, Any]) -> tuple[Any, ...]:
    texts = [said[name] for name in ("type", "conversation", "turn", "actor")]
    for text in (said["stream"], *texts):
        text.encode()  # half a surrogate pair is no text for a column
    position, version = said["position"], said["version"]
    recorded_at = datetime.fromisoformat(said["recorded_at"])
    is_whole = type(position) is int and type(version) is int and recorded_at.tzinfo is not None
    if not is_whole or not 0 < position < 2**63 or not 0 < version < 2**31:
        raise ValueError
    stored = a2b_base64(said["stored"], strict_mode=True)
    return (position, said["stream"], version, *texts, recorded_at, stored)
