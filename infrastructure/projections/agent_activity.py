"""Who is on and was on: one row a conversation for the agent that is on, one for each stint that is over."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

from application.ports import LoggedEvent
from application.queries import Answer, Stint
from infrastructure.postgres.pool import Pool
from infrastructure.projections.asking import Asker
from infrastructure.projections.read_model import Row, RowKey, Rows, Table
from infrastructure.projections.values import owner_of, plain_text

_STINT: Final = {
    "conversation": "text",
    "owner": "text",
    "agent": "text",
    "from_agent": "text",
    "reason": "text",
    "requested_by": "text",
    "position": "bigint",
    "since": "timestamptz",
    "model_calls": "bigint",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "duration_ms": "bigint",
}
ON: Final = Table(name="read_agents", columns=_STINT, key=("conversation",), indexes=("(owner, agent)",))
OVER: Final = Table(
    name="read_agent_stints",
    columns={**_STINT, "until": "timestamptz"},
    key=("conversation", "position"),
)
_COUNTED: Final = ("input_tokens", "output_tokens", "duration_ms")


class AgentActivity:
    """The stint that goes on gathers what its agent does; a switch ends it and begins the next."""

    name: ClassVar[str] = "agent_activity"
    version: ClassVar[int] = 1
    tables: ClassVar[tuple[Table, ...]] = (ON, OVER)
    types: ClassVar[frozenset[str]] = frozenset({"agent.assigned", "agent.switched", "agent.model_called"})

    def keys(self, event: LoggedEvent) -> Iterable[RowKey]:
        """Return the row of the stint that goes on."""
        return ((ON.name, (event.conversation_id,)),)

    def fold(self, rows: Rows, event: LoggedEvent) -> None:
        """Begin a stint, end one and begin the next, or count a call."""
        now = rows.get(ON, event.conversation_id)
        if event.type == "agent.assigned":
            by = {"agent": event.data["agent"], "requested_by": event.actor}
            rows.put(ON, _stint(event, owner_of(event.actor), by))
        elif now and event.type == "agent.switched":
            rows.put(OVER, {**now, "until": event.recorded_at})
            by = {"agent": event.data["to"], "from_agent": event.data["from"]}
            asked = {"reason": event.data["reason"], "requested_by": event.data["requested_by"]}
            rows.put(ON, _stint(event, now["owner"], by | asked))
        elif now and event.type == "agent.model_called":
            counted = {name: now[name] + event.data[name] for name in _COUNTED}
            rows.put(ON, {**now, **counted, "model_calls": now["model_calls"] + 1})


def _stint(event: LoggedEvent, owner: str, by: Mapping[str, str]) -> Row:
    row: Row = dict.fromkeys(ON.columns) | {name: plain_text(text) for name, text in by.items()}
    row |= dict.fromkeys(("model_calls", *_COUNTED), 0)
    about = {"conversation": event.conversation_id, "owner": owner}
    return row | about | {"position": event.position, "since": event.recorded_at}


# --- queries ---------------------------------------------------------------------------------------


class PostgresAgentActivity:
    """The stints, asked in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._asker = Asker(pool, AgentActivity.name)

    async def conversations(self, owner: str) -> Answer[Mapping[str, int]]:
        """Return in how many conversations of the owner each agent is on."""
        query = f"SELECT agent, count(*) AS count FROM {ON.name} WHERE owner = %(owner)s GROUP BY agent"
        found = await self._asker.ask(query, "agent", {"owner": owner}, kept_plan=True)
        return Answer(found.position, {row["agent"]: row["count"] for row in found.rows})

    async def stints(self, owner: str, conversation_id: str) -> Answer[Sequence[Stint] | None]:
        """Return the stints of a conversation, the newest first; None where there is none for this owner.

        They are not paged: a conversation has as many as its switches, which are limited.
        """
        columns = ", ".join(name for name in OVER.columns if name not in ("conversation", "owner", "until"))
        mine = "conversation = %(conversation)s AND owner = %(owner)s"
        query = f"""
            SELECT {columns}, NULL::timestamptz AS until FROM {ON.name} WHERE {mine}
            UNION ALL SELECT {columns}, until FROM {OVER.name} WHERE {mine}"""
        values = {"conversation": conversation_id, "owner": owner}
        found = await self._asker.ask(query, "position DESC", values, kept_plan=True)
        return Answer(found.position, [Stint(**row) for row in found.rows] or None)
