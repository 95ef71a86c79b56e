"""The metrics of several workers as one: each counts into files of a folder they share.

The Prometheus library does it where its variable `PROMETHEUS_MULTIPROC_DIR` is set before it is imported.
Counters of a worker that died stay in the sums, so that they never go back.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SHARED_METRICS: Final = "PROMETHEUS_MULTIPROC_DIR"


def new_metrics_folder() -> Path:
    """Make a folder for a parent and its workers."""
    return Path(tempfile.mkdtemp(prefix="minutebook-metrics-"))


@contextmanager
def shared_metrics(folder: Path) -> Iterator[Mapping[str, str]]:
    """Use the folder for the block; gives the variables that workers need.

    The last user removes it: a lock tells, which the kernel drops for one that was killed.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield {SHARED_METRICS: str(folder)}
    finally:
        _leave(folder, lock)


def _leave(folder: Path, lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # somebody still counts
    finally:
        os.close(lock)


def forget_worker(folder: str, pid: int) -> None:
    """Take what a worker that has ended was doing, as its open streams, out of the sums."""
    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]  # theirs


def all_workers() -> CollectorRegistry | None:
    """Return what all workers have counted; None where this process counts for itself."""
    if SHARED_METRICS not in os.environ:
        return None
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # theirs
    return registry
