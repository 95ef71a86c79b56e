"""A service that logs in as a member of `minutebook_app` does its work, and cannot do more."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.command_line import minutebook
from tests.serving import ServerProcess


@pytest.fixture
def service_url(bare_database_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a user who owns nothing, over a database that its owner has migrated."""
    assert minutebook(tmp_path, "migrate", database_url=bare_database_url).returncode == 0
    user = f"service_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(bare_database_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {user} LOGIN IN ROLE minutebook_app".encode())
        yield bare_database_url.replace("//minutebook@", f"//{user}@")
        owner.execute(f"DROP ROLE {user}".encode())


def test_the_service_serves_and_reads_without_owning_a_table(service_url: str, server_folder: Path) -> None:
    with ServerProcess(server_folder, database_url=service_url, demo_delay_s=0) as server:
        body = {"conversation_id": "c", "message": {"type": "user_message", "content": "hello"}}
        said = httpx.post(f"{server.url}/v1/messages/stream", json=body, timeout=30, verify=False).text
        assert "event: turn.committed" in said
        listed = httpx.get(
            f"{server.url}/v1/conversations", params={"min_position": 5}, timeout=30, verify=False
        ).json()
        assert [one["conversation_id"] for one in listed["conversations"]] == ["c"]


@pytest.mark.parametrize("statement", ["UPDATE log SET actor = 'x'", "DELETE FROM log", "TRUNCATE log"])
def test_the_service_cannot_change_the_log(service_url: str, statement: str) -> None:
    with psycopg.connect(service_url) as service, pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(statement.encode())


def test_what_takes_the_owner_is_refused_in_a_sentence(service_url: str, tmp_path: Path) -> None:
    done = minutebook(tmp_path, "rebuild", "usage", database_url=service_url)
    assert done.returncode == 1
    assert "making tables takes their owner" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_without_the_role_is_told_to_be_granted_it(service_url: str, tmp_path: Path) -> None:
    """Here it was asked whether there is such a user; there was."""
    user = str(conninfo_to_dict(service_url)["user"])
    with psycopg.connect(service_url.replace(user, "minutebook"), autocommit=True) as owner:
        owner.execute(f"REVOKE minutebook_app FROM {user}".encode())
    done = minutebook(tmp_path, "doctor", database_url=service_url)
    assert done.returncode == 2
    assert "GRANT minutebook_app to this user" in done.stderr


def test_what_the_service_has_erased_is_scrubbed_by_the_owner(service_url: str, tmp_path: Path) -> None:
    """It was erased, and the command ended as if it were not."""
    user = str(conninfo_to_dict(service_url)["user"])
    owner_url = service_url.replace(user, "minutebook")
    chat = {"id": "old", "messages": [{"role": "user", "content": "Hi"}]}
    (tmp_path / "old.json").write_text(json.dumps(chat))
    assert minutebook(tmp_path, "import", "old.json", database_url=service_url).returncode == 0
    erased = minutebook(tmp_path, "erase", "old", "--yes", database_url=service_url)
    assert (erased.returncode, erased.stderr) == (0, "")
    assert erased.stdout.startswith("Erased old: ")
    assert "erase it again as their owner" in erased.stdout
    again = minutebook(tmp_path, "erase", "old", "--yes", database_url=owner_url)
    assert (again.returncode, "as their owner" in again.stdout) == (0, False)
    with psycopg.connect(owner_url) as owner:
        scrubbed = owner.execute("SELECT scrubbed_at IS NOT NULL FROM keys.conversations").fetchall()
    assert scrubbed == [(True,)]
