"""Which index to walk along for a filter, and the walk: a bounded number of its entries."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from psycopg import AsyncConnection

from application.audit import EventFilter

BUDGET: Final = 5_000  # entries of an index that one page walks past, at most
_LEAST: Final = 500  # of each, where it takes several walks
_TOOL_BUDGET: Final = 2_000  # each of these is looked up in the log, too
_PROBE: Final = 256
_NARROW: Final = 2_000  # so few positions are looked at one by one
_COLUMNS: Final = {"conversation": "conversation", "actor": "actor", "types": "type"}
_RESIDUAL: Final = {
    "conversation": "l.conversation = %(conversation)s",
    "stream": "l.stream = %(stream)s",
    "types": "l.type = ANY(%(types)s)",
    "actor": "l.actor = %(actor)s",
    "turn": "l.turn = %(turn)s",
}
# The index keeps positions in blocks (see 001_log.sql): blocks come in order, and each is sorted.
_ALONG_INDEX: Final = (
    """log AS l WHERE l.{column} = leg.key
        AND l.position >> 12 BETWEEN %(low)s::bigint >> 12 AND %(high)s::bigint >> 12
        AND l.position BETWEEN %(low)s AND %(high)s""",
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
_PROBE_ONE: Final = f"""
    SELECT count(*), {{furthest}}(block) FROM unnest(%(keys)s::text[]) AS leg (key) CROSS JOIN LATERAL (
        SELECT l.position >> 12 AS block FROM log AS l
         WHERE l.{{column}} = leg.key
           AND l.position >> 12 BETWEEN %(low)s::bigint >> 12 AND %(high)s::bigint >> 12
         ORDER BY l.position >> 12 {{order}} LIMIT {_PROBE}) AS entry GROUP BY leg.key"""


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

    async def steps(self, connection: AsyncConnection[Any], limit: int) -> Steps:
        """Walk until `limit` positions are found, or as far as one page may."""
        if self.bounds.low > self.bounds.high:
            return Steps((), None)
        most = _TOOL_BUDGET if self.along == _ALONG_TOOLS else BUDGET
        budget = max(_LEAST, most // len(self.keys))
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
    if wanted.tool is not None:
        along, keys = _ALONG_TOOLS, [wanted.tool]
        return Walk(bounds, wanted.newest_first, along, keys, given)
    name = await _sparsest(connection, wanted.newest_first, bounds, given)
    if name is None:
        return Walk(bounds, wanted.newest_first, _ALONG_POSITIONS, [""], given)
    keys = _keys(given.pop(name))
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
    }
    return {name: value for name, value in given.items() if value is not None}


def _keys(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


async def _sparsest(
    connection: AsyncConnection[Any], newest_first: bool, bounds: Bounds, given: Mapping[str, Any]
) -> str | None:
    """Return the filter whose next entries reach furthest; None where looking at every position is best."""
    candidates = [name for name in _COLUMNS if name in given]
    if not candidates or bounds.high - bounds.low < _NARROW:
        return None
    if len(candidates) == 1:
        return candidates[0]
    reach = {
        name: await _reach(connection, name, _keys(given[name]), newest_first, bounds) for name in candidates
    }
    return max(reach, key=lambda name: reach[name])


async def _reach(
    connection: AsyncConnection[Any], name: str, keys: list[str], newest_first: bool, bounds: Bounds
) -> tuple[bool, int]:
    """Return whether a look finds the end of the entries, and else how many blocks away it stops.

    Of those that end, the one with the fewest entries is best.
    """
    query = _PROBE_ONE.format(
        column=_COLUMNS[name],
        furthest="min" if newest_first else "max",
        order="DESC" if newest_first else "ASC",
    )
    values = {"keys": keys, "low": bounds.low, "high": bounds.high}
    cursor = await connection.execute(query.encode(), values, prepare=False)
    found = await cursor.fetchall()
    stops = [furthest for count, furthest in found if count == _PROBE]
    if not stops:
        return True, -sum(count for count, _ in found)
    if newest_first:
        return False, (bounds.high >> 12) - max(stops)
    return False, min(stops) - (bounds.low >> 12)
