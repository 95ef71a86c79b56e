"""How many files a process may have open: every connection, so every stream, is one."""

import resource
from contextlib import suppress
from typing import Final

# More than this no process of ours can use, and where the limit is endless some systems refuse it.
ENOUGH: Final = 1_048_576


def allow_many_files() -> None:
    """Raise our own limit as far as the system lets us: the usual 1024 is less than a thousand streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
