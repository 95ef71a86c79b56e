"""The transcripts, asked: a conversation's entries, and those in which words are found."""

from typing import Any, Final

from application.queries import Answer, Entry, Hit, Page, Piece, Range, page_of
from infrastructure.postgres.pool import Pool
from infrastructure.projections.asking import Asker, conditions
from infrastructure.projections.read_model import Row
from infrastructure.projections.transcript import ENTRIES, TRANSCRIPTS, Transcript
from infrastructure.projections.values import from_json
from infrastructure.projections.words import SEARCHED, wanted

_CLAUSES: Final = {"after": "position > %(after)s", "before": "position < %(before)s"}
_KNOWN: Final = (
    f"EXISTS (SELECT FROM {TRANSCRIPTS.name} WHERE conversation = %(conversation)s AND owner = %(owner)s)"
)
# No text has these two characters in it that anybody would want to see: they mark what was found.
_START, _STOP = "\x02", "\x03"
_HEADLINE: Final = (
    f"StartSel={_START}, StopSel={_STOP}, MaxFragments=2, MaxWords=24, MinWords=8, FragmentDelimiter= … "
)
# The numbers find, the text itself decides. How often it agrees is nothing the planner should guess at: it
# has counted the numbers, and takes what it cannot see through for half.
_AGREES: Final = f"""
    CASE WHEN position > 0 THEN to_tsvector('simple', left(text, {SEARCHED})) @@ looked_for END"""
# The planner takes the splitting of a text into words for a hundredth of what it is (35 µs a message were
# measured), and would do it for tens of thousands of entries rather than look the words up.
_DEAR_WORDS: Final = "SET LOCAL cpu_operator_cost = 0.1; SET LOCAL max_parallel_workers_per_gather = 0"
_COLUMNS: Final = ", ".join(name for name in ENTRIES.columns if name != "words")


class PostgresTranscripts:
    """The transcripts, asked in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._asker = Asker(pool, Transcript.name)

    async def page(
        self, owner: str, conversation_id: str, wanted: Range, limit: int
    ) -> Answer[Page[Entry] | None]:
        """Return entries of one conversation, None where there is none for this owner."""
        given = {
            "conversation": conversation_id, "owner": owner, "limit": limit + 1,
            "after": wanted.after, "before": wanted.before,
        }  # fmt: skip
        order = "position DESC" if wanted.newest_first else "position"
        query = f"""
            SELECT {_COLUMNS} FROM {ENTRIES.name}
             WHERE conversation = %(conversation)s AND owner = %(owner)s AND {conditions(given, _CLAUSES)}
             ORDER BY {order} LIMIT %(limit)s"""
        found = await self._asker.ask(query, order, given, _KNOWN, kept_plan=True)
        page = page_of([entry_of(row) for row in found.rows], limit) if found.known else None
        return Answer(found.position, page)

    async def search(self, owner: str, words: str, before: int | None, limit: int) -> Answer[Page[Hit]]:
        """Return the entries with these words in all conversations of the owner, newest first."""
        given = {"owner": owner, "words": words, "before": before, "limit": limit + 1, "headline": _HEADLINE}
        arrays = {f"numbers{index}": numbers for index, numbers in enumerate(wanted(words))}
        may_have = " OR ".join(f"words @> %({name})s::int[]" for name in arrays) or "true"
        query = f"""
            SELECT conversation, position, kind, actor, recorded_at,
                   ts_headline('simple', left(text, {SEARCHED}), looked_for, %(headline)s) AS headline
              FROM (SELECT entry.*, looked_for
                      FROM websearch_to_tsquery('simple', %(words)s) AS looked_for, {ENTRIES.name} AS entry
                     WHERE owner = %(owner)s AND text IS NOT NULL AND numnode(looked_for) > 0
                       AND ({may_have}) AND {_AGREES} AND {conditions(given, _CLAUSES)}
                     ORDER BY position DESC LIMIT %(limit)s) AS hit"""
        found = await self._asker.ask(query, "position DESC", given | arrays, planning=_DEAR_WORDS)
        return Answer(found.position, page_of([_hit(row) for row in found.rows], limit))


def entry_of(row: Row) -> Entry:
    """Return a row as the answers show it."""
    names = ("position", "kind", "actor", "agent", "text", "recorded_at", "changed_position")
    return Entry(**{name: row[name] for name in names}, detail=detail_of(row))


def detail_of(row: Row) -> dict[str, Any]:
    """Return what an entry says of itself; of a call, a plan or a subtask also what became of it."""
    detail: dict[str, Any] = from_json(row["detail"])
    if row["status"] is None:
        return detail
    detail["status"] = row["status"]
    for name in ("outcome",) if row["kind"] == "subtask" else ("decision", "outcome"):
        detail[name] = from_json(row[name]) if row[name] else None
    return detail


def _hit(row: Row) -> Hit:
    names = ("position", "kind", "actor", "recorded_at")
    fields = {name: row[name] for name in names}
    return Hit(conversation_id=row["conversation"], highlight=_pieces(row["headline"]), **fields)


def _pieces(headline: str) -> list[Piece]:
    pieces: list[Piece] = []
    for part in headline.split(_START):
        found, stop, rest = part.rpartition(_STOP)
        pieces += [Piece(text, match) for text, match in ((found, bool(stop)), (rest, False)) if text]
    return pieces
