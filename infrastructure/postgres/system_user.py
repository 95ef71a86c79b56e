"""Which user of the operating system the embedded PostgreSQL runs as.

PostgreSQL refuses to run as root. Started by root, the server gets a system user of its own; started by
anybody else, it is simply that person's process and nothing here changes anything.
"""

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE_NAME = "minutebook"


class SystemUserError(Exception):
    """The system user for the embedded PostgreSQL could not be made."""


@dataclass(frozen=True)
class SystemUser:
    """A user to run programs as and to give files to; `switch` says whether that is not ourselves."""

    uid: int
    gid: int
    switch: bool

    @property
    def process_options(self) -> dict[str, Any]:
        """The arguments of `subprocess.run` that make a program run as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def owns(self, path: Path) -> None:
        """Give the file or folder to this user."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def may_reach(self, path: Path) -> None:
        """Let this user pass through the folders above the path: search permission, no more."""
        if not self.switch:
            return
        for folder in path.parents:
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & stat.S_IXOTH:
                folder.chmod(mode | stat.S_IXOTH)


def server_user(data: Path) -> SystemUser:
    """Say who runs the server over this data: ourselves, or for root the data's owner or the service user.

    Raises SystemUserError when a system user is needed and cannot be made.
    """
    if os.geteuid() != 0:
        return SystemUser(os.geteuid(), os.getegid(), switch=False)
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return SystemUser(owner.st_uid, owner.st_gid, switch=True)
    entry = _service_entry()
    return SystemUser(entry.pw_uid, entry.pw_gid, switch=True)


def _service_entry() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SERVICE_NAME)
    except KeyError:
        _add_service_user()
    return pwd.getpwnam(SERVICE_NAME)


def _add_service_user() -> None:
    if shutil.which("useradd"):
        command = [
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--shell",
            "/bin/false",
            SERVICE_NAME,
        ]
    else:  # BusyBox
        command = ["adduser", "-S", "-D", "-H", "-s", "/bin/false", SERVICE_NAME]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = str(getattr(error, "stderr", "") or error).strip()
        raise SystemUserError(
            f"PostgreSQL does not run as root, and no system user '{SERVICE_NAME}' could be made: {detail}"
        ) from error
