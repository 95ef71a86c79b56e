"""The command line: what is wrong is one sentence, and what the other commands say."""

import base64
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from api.settings import Settings
from infrastructure.keys import given_key
from infrastructure.postgres.key_store import settle_master
from infrastructure.vault import Vault
from tests.command_line import DATA, environment, minutebook, servers_over
from tests.forking import Forked
from tests.sealing import fill, seal, signing_in
from tests.serving import MASTER_KEY, ServerProcess

COMMANDS = ("serve", "migrate", "turns", "doctor")
SECRET = "hunter2-must-not-be-printed"


def refused(folder: Path, *arguments: str, **settings: object) -> str:
    """Run what has to be refused, and return the one sentence."""
    done = minutebook(folder, *arguments, **settings)
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("minutebook: ")
    assert line.endswith((".", "?"))
    assert SECRET not in line
    return line


@pytest.mark.parametrize(
    "words", ["audit keys", "audit events", "audit events --json", "turns --json", "--help"]
)
def test_what_cannot_be_written_is_one_sentence(words: str, database_url: str, tmp_path: Path) -> None:
    """A script that keeps what a command says must not take half of it, or nothing, for the whole."""
    fill(database_url, 2_000)
    settings = environment({"database_url": database_url, "keys": tmp_path / "keys"})
    signing_in(tmp_path).signer(may_create=True)
    with Path("/dev/full").open("wb") as full, (tmp_path / "said").open("wb") as said:
        code = Forked(words.split(), tmp_path, settings, full, said).wait(60)
    sentence = "minutebook: What there is to say cannot be written: No space left on device.\n"
    expected = (0, "") if words == "turns --json" else (1, sentence)  # there are no turns
    assert (code, (tmp_path / "said").read_text()) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"database_url": f"postgresql://u:{SECRET}@127.0.0.1:1/x"}, "nobody answers there"),
        ({"database_url": f"postgresql://u:{SECRET}@no-such-host.invalid/x"}, "nobody answers there"),
        ({"database_url": f"http://{SECRET}"}, "no address of a PostgreSQL"),
        ({"database_url": SECRET}, "no address of a PostgreSQL"),
        ({"port": "abc"}, "MINUTEBOOK_PORT: "),
        ({"port": 70000}, "MINUTEBOOK_PORT: "),
        ({"grace_s": -1}, "MINUTEBOOK_GRACE_S: "),
        ({"model_base_url": "not an address"}, "MINUTEBOOK_MODEL_BASE_URL: "),
        ({"database_url": f"postgresql://{SECRET}\udcff@127.0.0.1/x"}, "MINUTEBOOK_DATABASE_URL: It holds"),
        ({"seal_origin": "two\nlines"}, "MINUTEBOOK_SEAL_ORIGIN: "),
        ({"identity_header": "no header:"}, "MINUTEBOOK_IDENTITY_HEADER: "),
        ({"host": "0.0.0.0"}, "nobody is authenticated"),
        ({"scopes_header": "X-Scopes"}, "set MINUTEBOOK_IDENTITY_HEADER, too"),
        ({"hots": "127.0.0.1"}, "There is no setting MINUTEBOOK_HOTS; did you mean MINUTEBOOK_HOST?"),
        ({"zzzzzz": "1"}, "There is no setting MINUTEBOOK_ZZZZZZ"),
        ({"agents": "/no/such/agents.toml"}, "agents.toml"),
        ({"agents": "/dev/zero"}, "/dev/zero: it is larger than 1048576 bytes"),
        ({"lease_s": 0.9}, "MINUTEBOOK_LEASE_S: Input should be greater than or equal to 1"),
        ({"model": "openai:gpt-4o"}, "OPENAI_API_KEY"),
        ({"model": "nobody"}, "There is no model called 'nobody'"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_nothing_is_started(
    server_folder: Path, settings: dict[str, object], said: str
) -> None:
    assert said in refused(server_folder, "serve", **{"port": 0, **settings})
    assert servers_over(server_folder) == []


def test_a_setting_in_the_file_is_held_to_the_same(server_folder: Path) -> None:
    (server_folder / ".env").write_text("MINUTEBOOK_PROT=1\n")
    assert "There is no setting MINUTEBOOK_PROT; did you mean MINUTEBOOK_PORT?" in refused(
        server_folder, "serve"
    )


def test_a_database_that_lets_us_not_in_is_said_to_refuse_us(database_url: str, server_folder: Path) -> None:
    nobody = database_url.replace("//minutebook@", f"//nobody:{SECRET}@")
    nowhere = re.sub(r"/test_\w+", "/no_such_database", database_url)
    for url in (nobody, nowhere):
        assert "refuses us" in refused(server_folder, "serve", port=0, database_url=url)


def test_a_database_that_is_on_its_way_is_no_wrong_setting(server_folder: Path) -> None:
    """A server says this while it starts, recovers or stops."""
    with stopping_server() as port:
        said = refused(server_folder, "migrate", database_url=f"postgresql://u@127.0.0.1:{port}/x")
    assert said.endswith("cannot be used: it is starting or stopping; try again in a moment.")


def test_a_taken_port_is_said_before_anything_starts(server_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(server_folder, "serve", port=port)
    assert f"Cannot listen on 127.0.0.1:{port}: somebody listens there already" in said
    assert not (server_folder / DATA).exists()


def test_a_bad_agents_file_is_said_with_its_place(server_folder: Path) -> None:
    (server_folder / "agents.toml").write_text("first = \n")
    said = refused(server_folder, "serve", "--agents", "agents.toml", port=0)
    assert "agents.toml" in said
    assert not (server_folder / DATA).exists()


def test_a_server_that_is_too_old_is_refused_by_its_version(server_folder: Path) -> None:
    with old_server("14.9") as port:
        said = refused(server_folder, "serve", port=0, database_url=f"postgresql://u@127.0.0.1:{port}/x")
    assert "PostgreSQL 15 or newer is needed and the server is 14" in said


def old_server(version: str) -> AbstractContextManager[int]:
    """Speak just enough of PostgreSQL's protocol to be asked for the version."""
    status = b"server_version\0" + version.encode() + b"\0"
    welcome = _said(b"R", struct.pack("!i", 0)) + _said(b"S", status)
    welcome += _said(b"S", b"client_encoding\0UTF8\0")
    return _speaking(welcome + _said(b"K", struct.pack("!ii", 1, 1)) + _said(b"Z", b"I"))


def stopping_server() -> AbstractContextManager[int]:
    """Speak just enough of PostgreSQL's protocol to turn everybody away, as it does when it stops."""
    why = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is shutting down\0\0"
    return _speaking(_said(b"E", why))


@contextmanager
def _speaking(answer: bytes) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer_all, args=(listening, answer), daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _answer_all(listening: socket.socket, answer: bytes) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with connection:
                while True:  # requests for encryption come first, and get an N for no
                    (size,) = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))
                    (code,) = struct.unpack("!i", connection.recv(size - 4, socket.MSG_WAITALL)[:4])
                    if code == 196608:
                        break
                    connection.sendall(b"N")
                connection.sendall(answer)
                while connection.recv(1024):
                    pass


def _said(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("!i", len(payload) + 4) + payload


# --- the other commands --------------------------------------------------------------------------


def test_help_says_what_there_is_and_teaches_each_command(server_folder: Path) -> None:
    listed = minutebook(server_folder, "--help")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert all(command in listed.stdout for command in COMMANDS)
    assert "minutebook serve" in listed.stdout
    teaches = {
        "serve": ("--port", "--model", "MINUTEBOOK_DATABASE_URL", "Try", "doctor"),
        "migrate": ("Safe to run at any time", "serve"),
        "turns": ("--state", "--limit", "--json", "Try", "retry"),
        "doctor": ("--json", "Exit code 0"),
    }
    for command in COMMANDS:
        told = minutebook(server_folder, command, "--help")
        assert told.returncode == 0
        assert [word for word in teaches[command] if word not in told.stdout] == []
    assert not (server_folder / DATA).exists()


def test_no_command_at_all_is_answered_with_help(server_folder: Path) -> None:
    done = minutebook(server_folder)
    assert "Commands" in done.stdout + done.stderr
    assert minutebook(server_folder, "fly").returncode == 2


def test_migrate_may_be_run_at_any_time(bare_database_url: str, server_folder: Path) -> None:
    for _ in range(2):
        done = minutebook(server_folder, "migrate", database_url=bare_database_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert "up to date" in done.stdout
    with psycopg.connect(bare_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (0,)


def test_turns_are_listed_for_people_and_for_scripts(database_url: str, server_folder: Path) -> None:
    with ServerProcess(server_folder, database_url=database_url) as server:
        for content, conversation in (("help", "one"), (f"fail {SECRET}", "two")):
            body = {"type": "user_message", "content": content}
            asked = {"conversation_id": conversation, "message": body}
            httpx.post(f"{server.url}/v1/messages/stream", json=asked, timeout=30, verify=False)
    listed = minutebook(server_folder, "turns", "--json", database_url=database_url)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["conversation"], row["state"], row["code"]) for row in rows] == [
        ("two", "failed", "model_unavailable"),
        ("one", "committed", None),
    ]
    failed = minutebook(server_folder, "turns", "--state", "failed", database_url=database_url)
    assert rows[0]["turn"] in failed.stdout
    assert rows[1]["turn"] not in failed.stdout
    assert SECRET not in listed.stdout + failed.stdout
    newest = minutebook(server_folder, "turns", "--json", "--limit", "1", database_url=database_url)
    assert newest.stdout.splitlines() == listed.stdout.splitlines()[:1]
    assert "no turn state done" in refused(
        server_folder, "turns", "--state", "done", database_url=database_url
    )


def test_the_doctor_shows_every_setting_and_no_secret(database_url: str, server_folder: Path) -> None:
    settings = {
        "database_url": database_url.replace("minutebook@", f"minutebook:{SECRET}@"),
        "model": "openai:x",
        "model_api_key": SECRET,
        "model_base_url": "http://127.0.0.1:1/v1",
    }
    shown = minutebook(server_folder, "doctor", **settings)
    scripted = minutebook(server_folder, "doctor", "--json", **settings)
    for done in (shown, scripted):
        assert (done.returncode, done.stderr) == (0, "")
        assert SECRET not in done.stdout
        names = {f"MINUTEBOOK_{name.upper()}" for name in Settings.model_fields}
        assert {name for name in names if name not in done.stdout} == set()
    found = json.loads(scripted.stdout)
    assert (found["ok"], found["postgresql"]) == (True, 18)
    assert found["settings"]["MINUTEBOOK_MODEL"] == "openai:x"
    assert found["settings"]["MINUTEBOOK_SEAL"] == "true"
    assert found["settings"]["MINUTEBOOK_AGENTS"] is None


def test_the_doctor_finds_what_serve_would_stumble_over(server_folder: Path) -> None:
    assert "OPENAI_API_KEY" in refused(server_folder, "doctor", model="openai:x")
    assert "nobody answers" in refused(server_folder, "doctor", database_url="postgresql://127.0.0.1:1/x")


def test_the_doctor_finds_the_keys_that_a_restored_database_lacks(database_url: str, tmp_path: Path) -> None:
    """All is well was said over a database that no server could open, or seal."""
    settings = {"database_url": database_url, "keys": tmp_path / "keys"}
    unsealed = minutebook(tmp_path, "doctor", **settings, master_key="")
    assert (unsealed.returncode, (tmp_path / "keys").exists()) == (0, False)
    _bind_master(database_url)
    assert "master key of this database is missing" in refused(tmp_path, "doctor", **settings, master_key="")
    another = base64.b64encode(bytes(32)).decode()
    assert "made with another one" in refused(tmp_path, "doctor", **settings, master_key=another)

    fill(database_url, 3)
    seal(database_url, tmp_path)
    assert minutebook(tmp_path, "doctor", **settings).returncode == 0
    key = signing_in(tmp_path).key_path.rename(tmp_path / "elsewhere")
    assert "minutebook audit rotate-key" in refused(tmp_path, "doctor", **settings)
    assert minutebook(tmp_path, "doctor", **settings, seal="false").returncode == 0
    said = refused(tmp_path, "doctor", **settings, signing_key=another)
    assert "not the one that has signed the newest checkpoint" in said
    assert minutebook(tmp_path, "doctor", **settings, signing_key=key).returncode == 0
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA keys CASCADE")
    assert "restore it from its backup" in refused(tmp_path, "doctor", **settings, master_key="")
    assert not (tmp_path / "keys" / "master.key").exists()


def _bind_master(url: str) -> None:
    settle_master(url, Vault(given_key(MASTER_KEY, "")))


def test_an_option_that_is_wrong_is_told_from_what_could_not_be_done(server_folder: Path) -> None:
    assert "is a time as" in refused(server_folder, "audit", "events", "--from", "yesterday")
    twice = refused(
        server_folder, "audit", "events", "--order", "asc", "--type", "a", "--type", "b", "--order=desc"
    )
    assert "--order is given more than once" in twice


def test_a_file_that_cannot_be_imported_is_named(server_folder: Path) -> None:
    (server_folder / "broken.json").write_text("{broken")
    said = refused(server_folder, "import", "broken.json")
    assert "broken.json cannot be read. This is not valid JSON" in said
    assert not (server_folder / DATA).exists()


def test_an_address_of_another_machine_is_said_to_be_none_of_ours(server_folder: Path) -> None:
    said = refused(server_folder, "serve", "--host", "192.0.2.1", port=0, allow_remote=True)
    assert "this machine has no such address" in said
