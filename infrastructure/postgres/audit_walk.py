"""Which index to walk along for a filter, and the walk: as many of its entries as its time allows."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from psycopg import AsyncConnection

from application.audit import EventFilter

BUDGET: Final = 1_000  # entries of an index that one statement walks past, at most
# How long an entry takes depends on where its row is: in memory, with its neighbours, or on a disk.
_FIRST: Final = 250
_LEAST: Final = 50  # of each, where it takes several walks
_BLOCK: Final = 4_096  # positions that the index keeps together
_PROBE: Final = 64  # entries that say how many there are in a block
_LEAST_PROBED: Final = 4  # of each, where there are several
# An index reads all its rows of a block before it gives the first. Where they fill the block's pages, the
# table itself, in the order of positions, is the shorter way.
_DENSE: Final = 128
_NARROW: Final = 2_000  # so few positions are looked at one by one
_COLUMNS: Final = {"conversation": "conversation", "actor": "actor", "types": "type"}
_RESIDUAL: Final = {
    "conversation": "l.conversation = %(conversation)s",
    "stream": "l.stream = %(stream)s",
    "types": "l.type = ANY(%(types)s)",
    "actor": "l.actor = %(actor)s",
    "turn": "l.turn = %(turn)s",
    # Not EXISTS: that may be made a hash of all the tool's events.
    "tool": """(SELECT true FROM read_tool_events AS t
                 WHERE t.tool = %(tool)s AND t.position = l.position LIMIT 1) IS NOT NULL""",
}
# The index keeps positions in blocks (see 001_log.sql): blocks come in order, and each is sorted. The sums
# keep the primary key out of it: near an end of the log it would be read, and sorted, as far as that end.
_ALONG_INDEX: Final = (
    """log AS l WHERE l.{column} = leg.key
        AND l.position >> 12 BETWEEN %(low)s::bigint >> 12 AND %(high)s::bigint >> 12
        AND l.position + 0 >= %(low)s AND l.position - 0 <= %(high)s""",
    "l.position >> 12 {order}, l.position {order}",
)
_ALONG_TOOLS: Final = (
    """read_tool_events AS t JOIN log AS l ON l.position = t.position
        WHERE t.tool = leg.key AND t.position BETWEEN %(low)s AND %(high)s""",
    "t.position {order}",
)
_ALONG_POSITIONS: Final = ("log AS l WHERE l.position BETWEEN %(low)s AND %(high)s", "l.position {order}")
# Each leg stops once it has enough, or at the entry that is the last it may look at: that one says how far
# it got. Rows come out in the order of the walk; nothing above it sorts.
_WALK: Final = """
    SELECT leg.number, walked.position, walked.is_wanted, walked.nth
      FROM unnest(%(keys)s::text[]) WITH ORDINALITY AS leg (key, number) CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT l.position, {wanted} AS is_wanted, row_number() OVER (ORDER BY {order}) AS nth
              FROM {along} ORDER BY {order} LIMIT %(budget)s) AS step
         WHERE is_wanted OR nth = %(budget)s LIMIT %(most)s) AS walked"""
_PROBE_KEYS: Final = """
    SELECT count(*), max(position) - min(position)
      FROM unnest(%(keys)s::text[]) AS leg (key) CROSS JOIN LATERAL (
        SELECT l.position FROM log AS l
         WHERE l.{column} = leg.key
           AND l.position >> 12 BETWEEN %(low)s::bigint >> 12 AND %(high)s::bigint >> 12
         ORDER BY l.position >> 12 {order} LIMIT %(probe)s) AS entry GROUP BY leg.key"""
_PROBE_TOOL: Final = """
    SELECT count(*), max(position) - min(position) FROM (
        SELECT t.position FROM read_tool_events AS t
         WHERE t.tool = (%(keys)s::text[])[1] AND t.position BETWEEN %(low)s AND %(high)s
         ORDER BY t.position {order} LIMIT %(probe)s) AS entry"""


@dataclass(frozen=True)
class Bounds:
    """Positions from `low` to `high`, both included; `head` is how far could be looked."""

    low: int
    high: int
    head: int
    conversation: str | None = None


@dataclass(frozen=True)
class Steps:
    """The positions found, in order, and from where to go on: None at the end."""

    positions: Sequence[int]
    next: int | None


@dataclass(frozen=True)
class Walk:
    """A walk along one index (or several entries of it), and what its rows have to be besides."""

    bounds: Bounds
    newest_first: bool
    along: tuple[str, str]
    keys: Sequence[str]
    residual: Mapping[str, Any] = field(default_factory=dict)

    def behind(self, position: int) -> "Walk":
        """Return the same walk from behind this position on."""
        if self.newest_first:
            return replace(self, bounds=replace(self.bounds, high=position - 1))
        return replace(self, bounds=replace(self.bounds, low=position + 1))

    async def steps(self, connection: AsyncConnection[Any], limit: int, deadline: float) -> Steps:
        """Walk until `limit` positions are found, or, by the clock `time.monotonic`, past the deadline."""
        walk, budget, found = self, _FIRST, list[int]()
        while True:
            began = time.monotonic()
            steps = await walk.step(connection, limit - len(found), budget)
            found += steps.positions
            now = time.monotonic()
            if steps.next is None or len(found) == limit or now >= deadline:
                return Steps(found, steps.next)
            walk = walk.behind(steps.next)
            if now + 4 * (now - began) < deadline:
                budget = min(budget * 2, BUDGET)

    async def step(self, connection: AsyncConnection[Any], limit: int, budget: int) -> Steps:
        """Walk until `limit` positions are found, or past so many entries."""
        if self.bounds.low > self.bounds.high:
            return Steps((), None)
        budget = max(_LEAST, budget // len(self.keys))
        given = {
            **self.residual, "keys": self.keys, "budget": budget, "most": limit + 1,
            "low": self.bounds.low, "high": self.bounds.high,
        }  # fmt: skip
        cursor = await connection.execute(self.query().encode(), given, prepare=False)
        return self._gathered(await cursor.fetchall(), limit, budget)

    def query(self) -> str:
        """Return the statement of the walk."""
        along, order = self.along
        wanted = " AND ".join(_RESIDUAL[name] for name in self.residual) or "true"
        return _WALK.format(
            wanted=wanted, along=along, order=order.format(order="DESC" if self.newest_first else "ASC")
        )

    def _gathered(self, rows: Iterable[tuple[int, int, bool, int]], limit: int, budget: int) -> Steps:
        """Put the legs together, as far as all of them have got."""
        found: list[int] = []
        legs: dict[int, tuple[int, int]] = {}  # how many rows a leg gave, and where its last one stands
        stops: list[int] = []
        for number, position, is_wanted, nth in rows:
            count = legs.get(number, (0, 0))[0] + 1
            legs[number] = (count, position)
            if is_wanted:
                found.append(position)
            if nth == budget or count == limit + 1:
                stops.append(position)
        found.sort(reverse=self.newest_first)
        if stops:
            stop = max(stops) if self.newest_first else min(stops)
            found = [one for one in found if (one >= stop if self.newest_first else one <= stop)]
            return Steps(found[:limit], found[limit - 1] if len(found) > limit else stop)
        return Steps(found[:limit], found[limit - 1] if len(found) > limit else None)


async def walk_of(connection: AsyncConnection[Any], wanted: EventFilter, bounds: Bounds) -> Walk:
    """Choose the index: of those that the filter can use, the one with the fewest entries to pass."""
    given = _given(wanted, bounds)
    name = await _sparsest(connection, wanted.newest_first, bounds, given)
    if name is None:
        return Walk(bounds, wanted.newest_first, _ALONG_POSITIONS, [""], given)
    keys = _keys(given.pop(name))
    if name == "tool":
        return Walk(bounds, wanted.newest_first, _ALONG_TOOLS, keys, given)
    table, order = _ALONG_INDEX
    along = (table.format(column=_COLUMNS[name]), order)
    return Walk(bounds, wanted.newest_first, along, keys, given)


def _given(wanted: EventFilter, bounds: Bounds) -> dict[str, Any]:
    of_stream = wanted.stream.partition("-")[2] if wanted.stream else None
    given = {
        "conversation": wanted.conversation or bounds.conversation or of_stream,
        "stream": wanted.stream,
        "types": list(wanted.types) or None,
        "actor": wanted.actor,
        "turn": wanted.turn,
        "tool": wanted.tool,
    }
    return {name: value for name, value in given.items() if value is not None}


def _keys(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


async def _sparsest(
    connection: AsyncConnection[Any], newest_first: bool, bounds: Bounds, given: Mapping[str, Any]
) -> str | None:
    """Return the filter with the fewest entries ahead; None where looking at every position is best."""
    candidates = [name for name in (*_COLUMNS, "tool") if name in given]
    if not candidates or bounds.high - bounds.low < _NARROW:
        return None
    if len(candidates) == 1 and candidates[0] in ("conversation", "tool"):
        return candidates[0]
    density = {
        name: await _density(connection, name, _keys(given[name]), newest_first, bounds)
        for name in candidates
    }
    best = min(density, key=lambda name: density[name])
    if density[best] < _DENSE:
        return best
    return "tool" if "tool" in density else None  # its entries are in order, and nothing else is read


async def _density(
    connection: AsyncConnection[Any], name: str, keys: Sequence[str], newest_first: bool, bounds: Bounds
) -> float:
    """Return about how many entries a block has, of those that come first."""
    probe = max(_PROBE // len(keys), _LEAST_PROBED)
    query = probe_query(name, newest_first)
    values = {"keys": keys, "low": bounds.low, "high": bounds.high, "probe": probe}
    cursor = await connection.execute(query.encode(), values, prepare=False)
    everywhere = bounds.high - bounds.low
    return sum(
        [
            count * _BLOCK / ((span if count == probe else everywhere) + 1)
            for count, span in await cursor.fetchall()
            if count
        ],
        0.0,
    )


def probe_query(name: str, newest_first: bool) -> str:
    """Return the statement that looks how far the next entries of a filter reach."""
    query = _PROBE_TOOL if name == "tool" else _PROBE_KEYS
    return query.format(column=_COLUMNS.get(name), order="DESC" if newest_first else "ASC")
