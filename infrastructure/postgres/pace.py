"""How large a batch is to be: what a save takes the server, and what a batch takes beside its saves."""

from datetime import datetime
from typing import Final, NamedTuple

# Of what a batch takes. At 2, the batches of 16 clients were halved and slower; at 3, all are quicker.
_WORTHWHILE: Final = 3
_FORGETTING: Final = 1.01  # how much longer a batch may have become since the one before


class Took(NamedTuple):
    """A batch: when the server began with its rows and had written them, and the seconds to its answer."""

    saves: int
    began_at: datetime
    written_at: datetime
    whole_s: float


class Pace:
    """Says when two smaller batches are quicker: we make one ready while the server writes the other.

    They are where the server has more to do for the rows than for the batch itself, which is its flush and
    the way there. What that takes is the least that any batch took lately: the rest is our own loop, busy
    with what two batches hide.
    """

    def __init__(self) -> None:
        self._save_s = 0.0
        self._batch_s = 1.0
        self._written_at: datetime | None = None

    def note(self, took: Took, *, was_alone: bool) -> None:
        """Note a batch, where it tells something: a clock that jumped meanwhile leaves no trace."""
        rows_s = (took.written_at - took.began_at).total_seconds()
        before, self._written_at = self._written_at or took.began_at, took.written_at
        beside_s = took.whole_s - rows_s
        batch_s = beside_s if was_alone else (took.began_at - before).total_seconds()
        if 0 < rows_s < took.whole_s and batch_s > 0 and (was_alone or self._is_news(batch_s, beside_s)):
            self._save_s += (rows_s / took.saves - self._save_s) / 8
            self._batch_s = min(batch_s, self._batch_s * _FORGETTING)

    def _is_news(self, between_s: float, beside_s: float) -> bool:
        """Whether the time between a batch and the one before it tells of a quicker or a slower disk.

        It does where the batch waited, and not the server for the batch; and it is a little longer than what
        one takes alone, as it takes a while to wake up who waits.
        """
        return beside_s > 2 * between_s and not 1 < between_s / self._batch_s < 2

    def is_batch(self, saves: int) -> bool:
        """Whether so many saves are worth a batch of their own beside another one."""
        return saves * self._save_s > _WORTHWHILE * self._batch_s
