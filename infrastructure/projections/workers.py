"""The processes that load a rebuild: one for each part, none left behind, and none that must be heard out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Final, cast

from infrastructure.projections.loading import Failure, Loader, Part, load_part
from infrastructure.projections.yielding import step_back

_POLL_S: Final = 0.2


class Workers:
    """What the processes have reported."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._reached = {part.number: part.position for part in parts}
        self._target = max(part.target for part in parts)
        self._reports: dict[Connection, int] = {}

    @property
    def position(self) -> int:
        """How far the parts are, taken together."""
        return sum(self._reached.values()) // len(self._reached)

    @property
    def are_done(self) -> bool:
        """Whether every part is at its target."""
        return min(self._reached.values()) >= self._target

    @contextmanager
    def at_work(self, url: str, makers: Sequence[tuple[Part, Callable[[], Loader]]]) -> Iterator[None]:
        """Run a process for each part."""
        context = get_context("forkserver")
        processes = []
        for part, make in makers:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=load_part, args=(url, make, part, theirs), daemon=True)
            process.start()
            step_back(process.pid)  # requests come first, also before all that it imports
            theirs.close()  # so that we see the end when the process is gone
            processes.append(process)
            self._reports[ours] = part.number
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
                process.join()
            for ours in self._reports:
                ours.close()

    def hear(self) -> Failure | None:
        """Take what has been reported; returns what keeps a part from going on, where something does."""
        for ready in wait(list(self._reports), timeout=_POLL_S):
            connection = cast("Connection", ready)
            try:
                part, position, failure = connection.recv()
                self._reached[part] = position
            except EOFError:
                part, failure = self._reports.pop(connection), None
                if self._reached[part] < self._target:
                    failure = (0, "a worker process has died")
            if failure:
                return cast("Failure", failure)
        return None
