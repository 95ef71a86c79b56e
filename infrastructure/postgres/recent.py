"""The newest events of the conversations that were talked in last, decoded and in memory."""

from collections import Counter, OrderedDict

from domain.aggregate import MinuteEvent


class RecentEvents:
    """Keeps decoded events of the log, up to about `most_bytes` of stored data, the latest used ones.

    Aggregates are revived from the same events and a model is shown them turn after turn, and what is in the
    log never changes: an event in here is never stale, whoever writes meanwhile. What is not in here is read
    from the log.
    """

    def __init__(self, most_bytes: int = 32 * 1024 * 1024) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._events: OrderedDict[tuple[str, int], tuple[MinuteEvent, int]] = OrderedDict()
        self._kept = Counter[str]()

    def knows(self, stream: str) -> bool:
        """Whether any event of the stream is kept."""
        return stream in self._kept

    def get(self, stream: str, version: int) -> MinuteEvent | None:
        """Return the event, if it is kept."""
        kept = self._events.get((stream, version))
        if kept is None:
            return None
        self._events.move_to_end((stream, version))
        return kept[0]

    def keep(self, stream: str, event: MinuteEvent, size: int) -> None:
        """Keep an event that was read from the log, whose data is `size` bytes long."""
        self._drop((stream, event.originator_version))
        self._events[stream, event.originator_version] = (event, size)
        self._kept[stream] += 1
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._events)))

    def forget(self, stream: str) -> None:
        """Forget every event of the stream: it was erased."""
        for key in [key for key in self._events if key[0] == stream]:
            self._drop(key)

    def _drop(self, key: tuple[str, int]) -> None:
        if key not in self._events:
            return
        _, size = self._events.pop(key)
        self._bytes -= size
        self._kept[key[0]] -= 1
        if not self._kept[key[0]]:
            del self._kept[key[0]]
