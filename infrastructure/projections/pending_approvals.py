"""What waits for a person: one row for each undecided call and each version of a plan in review."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from application.ports import LoggedEvent
from application.queries import Answer, Approval, Page, Waiting, page_of
from infrastructure.postgres.pool import Pool
from infrastructure.projections.asking import Asker, conditions
from infrastructure.projections.read_model import Row, RowKey, Rows, Table
from infrastructure.projections.values import ERASURE, from_json, named, owner_of, plain_text, to_json

ASKED: Final = Table(
    name="read_approval_owners", columns={"conversation": "text", "owner": "text"}, key=("conversation",)
)
APPROVALS: Final = Table(
    name="read_approvals",
    columns={
        "conversation": "text",
        "id": "text",  # the call's id, or <plan id>/<version>
        "owner": "text",
        "kind": "text",
        "position": "bigint",
        "since": "timestamptz",
        "agent": "text",
        "detail": "text",  # JSON
    },
    key=("conversation", "id"),
    indexes=("(owner, position)", "(position)"),
)

_CALL_OVER: Final = frozenset(
    f"conversation.tool_call_{end}" for end in ("approved", "edited", "rejected", "closed")
)
_PLAN_OVER: Final = frozenset(
    f"conversation.plan_{end}" for end in ("approved", "modification_requested", "rejected", "superseded")
)


class PendingApprovals:
    """A row appears when somebody has to decide, and goes when nobody has to any more."""

    name: ClassVar[str] = "pending_approvals"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]] = (ASKED, APPROVALS)
    types: ClassVar[frozenset[str]] = frozenset(
        {
            "conversation.started",
            ERASURE,
            "conversation.tool_call_requested",
            "conversation.plan_proposed",
            *_CALL_OVER,
            *_PLAN_OVER,
        }
    )

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return the row that knows the owner, where a new row needs it."""
        if _is_asking(event):
            yield ASKED.name, (event.conversation_id,)

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Let a row appear or go."""
        if event.type == "conversation.started":
            rows.put(ASKED, {"conversation": event.conversation_id, "owner": owner_of(event.actor)})
        elif event.type == ERASURE:
            owner = owner_of(event.data["owner"])
            rows.put(ASKED, {"conversation": event.conversation_id, "owner": owner})
        elif event.type == "conversation.tool_call_requested":
            if event.data["requires_decision"]:
                detail = named(event.data, "call_id", "tool", "arguments", "rule")
                _add(rows, event, "call", event.data["call_id"], detail)
        elif event.type == "conversation.plan_proposed":
            detail = named(event.data, "plan_id", "plan_version", "goal", "subtasks")
            _add(rows, event, "plan", _version_of(event.data), detail)
        elif event.type in _CALL_OVER:
            rows.drop(APPROVALS, event.conversation_id, event.data["call_id"])
        elif event.type in _PLAN_OVER:
            rows.drop(APPROVALS, event.conversation_id, _version_of(event.data))


def _is_asking(event: LoggedEvent) -> bool:
    asks = event.type == "conversation.tool_call_requested" and event.data["requires_decision"]
    return asks or event.type == "conversation.plan_proposed"


def _version_of(data: Mapping[str, Any]) -> str:
    return f"{data['plan_id']}/{data['plan_version']}"


def _add(rows: Rows, event: LoggedEvent, kind: str, id_: str, detail: Mapping[str, Any]) -> None:
    about = rows.get(ASKED, event.conversation_id)
    row = {
        "conversation": event.conversation_id,
        "id": id_,
        "owner": about["owner"] if about else "",
        "kind": kind,
        "position": event.position,
        "since": event.recorded_at,
        "agent": plain_text(event.data["agent"]),
        "detail": to_json(detail),
    }
    rows.put(APPROVALS, row)


# --- queries ---------------------------------------------------------------------------------------

_CLAUSES: Final = {
    "conversation": "conversation = %(conversation)s",
    "after": "position > %(after)s",
}
_KNOWN: Final = (
    f"EXISTS (SELECT FROM {ASKED.name} WHERE conversation = %(conversation)s AND owner = %(owner)s)"
)


class PostgresApprovals:
    """What waits, asked in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._asker = Asker(pool, PendingApprovals.name)

    async def page(self, owner: str, after: int | None, limit: int) -> Answer[Page[Approval]]:
        """Return what waits in all conversations of the owner, the longest waiting first."""
        answer = await self._page({"owner": owner, "after": after}, limit, "true")
        return Answer(answer.position, answer.value or Page(()))

    async def of_conversation(
        self, owner: str, conversation_id: str, after: int | None, limit: int
    ) -> Answer[Page[Approval] | None]:
        """Return what waits in one conversation, None where there is none for this owner."""
        return await self._page(
            {"owner": owner, "after": after, "conversation": conversation_id}, limit, _KNOWN
        )

    async def _page(self, given: Mapping[str, Any], limit: int, known: str) -> Answer[Page[Approval] | None]:
        query = f"""
            SELECT * FROM {APPROVALS.name} WHERE owner = %(owner)s AND {conditions(given, _CLAUSES)}
             ORDER BY position LIMIT %(limit)s"""
        found = await self._asker.ask(query, "position", {**given, "limit": limit + 1}, known)
        page = page_of([_approval(row) for row in found.rows], limit) if found.known else None
        return Answer(found.position, page)

    async def waiting(self) -> Answer[Waiting]:
        """Return how much waits, whosever it is."""
        query = f"SELECT count(*) AS count, min(since) AS oldest FROM {APPROVALS.name}"
        found = await self._asker.ask(query, "count", {}, kept_plan=True)
        return Answer(found.position, Waiting(**found.rows[0]))


def _approval(row: Row) -> Approval:
    names = ("kind", "position", "since", "agent")
    fields = {name: row[name] for name in names}
    return Approval(conversation_id=row["conversation"], detail=from_json(row["detail"]), **fields)
