"""The read side over HTTP: conversations, transcripts, approvals, agents, usage."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.auth import Chatter
from api.parameters import KNOWN_ONLY
from api.reading import (
    Bound,
    ConversationId,
    Limit,
    MinPosition,
    Paging,
    TheReads,
    Word,
    answered,
    cursor_of,
    names_of,
    next_of,
    place_of,
)
from application.agents import AgentProfile, AgentRoster
from application.errors import InvalidFilterError
from application.queries import (
    USAGE_GROUPS,
    Answer,
    ConversationFilter,
    ConversationSummary,
    ListedState,
    Range,
    Stint,
    UsageFilter,
    UsageGroup,
)
from application.reading import Reads
from domain.errors import ConversationNotFoundError

router = APIRouter(prefix="/v1", tags=["reading"], dependencies=KNOWN_ONLY)


# --- conversations -------------------------------------------------------------------------------


@router.get("/conversations")
async def list_conversations(
    request: Request,
    caller: Chatter,
    reads: TheReads,
    paging: Paging,
    search: Word | None = None,
    state: ListedState | None = None,
    agent: Word | None = None,
) -> Response:
    """List the caller's conversations, the one with the newest event first."""
    before, wanted = place_of("conversations", paging.cursor), ConversationFilter(search, state, agent)
    answer = await reads.patience.read(
        "conversation_list",
        paging.min_position,
        lambda: reads.conversations.page(caller.subject, wanted, before, paging.limit),
    )
    page = answer.value
    following = next_of("conversations", page, lambda one: [one.last_position])
    return answered(request, answer.position, {"conversations": page.items, "next": following})


@router.get("/conversations/{conversation_id}")
async def get_conversation(
    conversation_id: ConversationId,
    request: Request,
    caller: Chatter,
    reads: TheReads,
    min_position: MinPosition = 0,
) -> Response:
    """Return one conversation, with its state, its counts, and what it waits for."""
    answer = await conversation_of(reads, caller.subject, conversation_id, min_position)
    return answered(request, answer.position, {"conversation": answer.value})


async def conversation_of(
    reads: Reads, owner: str, conversation_id: str, min_position: int
) -> Answer[ConversationSummary]:
    """Return one conversation. Raises `ConversationNotFoundError` and `PositionNotReachedError`."""
    answer = await reads.patience.read(
        "conversation_list", min_position, lambda: reads.conversations.one(owner, conversation_id)
    )
    if answer.value is None:
        raise ConversationNotFoundError
    return Answer(answer.position, answer.value)


# --- transcripts ---------------------------------------------------------------------------------


@router.get("/conversations/{conversation_id}/messages")
async def read_transcript(
    conversation_id: ConversationId,
    request: Request,
    caller: Chatter,
    reads: TheReads,
    order: Annotated[Literal["asc", "desc"], Query(description="Oldest or newest first.")] = "asc",
    after: Bound = None,
    before: Bound = None,
    limit: Limit = 50,
    min_position: MinPosition = 0,
) -> Response:
    """Return the transcript, paged from either end."""
    bounds = place_of("entry", after), place_of("entry", before)
    wanted = Range(*bounds, newest_first=order == "desc")
    answer = await reads.patience.read(
        "transcript",
        min_position,
        lambda: reads.transcripts.page(caller.subject, conversation_id, wanted, limit),
    )
    if answer.value is None:
        raise ConversationNotFoundError
    positions = [entry.position for entry in answer.value.items]
    ends = {
        "first": cursor_of("entry", min(positions)) if positions else before,
        "last": cursor_of("entry", max(positions)) if positions else after,
    }
    body = {"entries": answer.value.items, **ends, "more": answer.value.more}
    return answered(request, answer.position, body)


@router.get("/messages/search")
async def search_messages(
    q: Word,
    request: Request,
    caller: Chatter,
    reads: TheReads,
    paging: Paging,
) -> Response:
    """Find words in all of the caller's conversations, newest first."""
    before = place_of("hit", paging.cursor)
    answer = await reads.patience.read(
        "transcript",
        paging.min_position,
        lambda: reads.transcripts.search(caller.subject, q, before, paging.limit),
    )
    page = answer.value
    following = next_of("hit", page, lambda one: [one.position])
    return answered(request, answer.position, {"hits": page.items, "next": following})


# --- approvals -----------------------------------------------------------------------------------


@router.get("/approvals")
async def list_approvals(
    request: Request,
    caller: Chatter,
    reads: TheReads,
    paging: Paging,
) -> Response:
    """List the calls and plans that wait for the caller, the longest waiting first."""
    after = place_of("approval", paging.cursor)
    answer = await reads.patience.read(
        "pending_approvals",
        paging.min_position,
        lambda: reads.approvals.page(caller.subject, after, paging.limit),
    )
    page = answer.value
    following = next_of("approval", page, lambda one: [one.position])
    return answered(request, answer.position, {"approvals": page.items, "next": following})


@router.get("/conversations/{conversation_id}/approvals")
async def list_approvals_of_conversation(
    conversation_id: ConversationId,
    request: Request,
    caller: Chatter,
    reads: TheReads,
    paging: Paging,
) -> Response:
    """List the calls and plans that wait for the caller in one conversation."""
    after = place_of("approval", paging.cursor)
    answer = await reads.patience.read(
        "pending_approvals",
        paging.min_position,
        lambda: reads.approvals.of_conversation(caller.subject, conversation_id, after, paging.limit),
    )
    if answer.value is None:
        raise ConversationNotFoundError
    page = answer.value
    following = next_of("approval", page, lambda one: [one.position])
    return answered(request, answer.position, {"approvals": page.items, "next": following})


# --- agents --------------------------------------------------------------------------------------


@router.get("/agents")
async def list_agents(
    request: Request, caller: Chatter, reads: TheReads, min_position: MinPosition = 0
) -> Response:
    """List the agents' profiles, and in how many of the caller's conversations each is on."""
    roster: AgentRoster = request.app.state.roster
    answer = await reads.patience.read(
        "agent_activity", min_position, lambda: reads.agents.conversations(caller.subject)
    )
    default: str = request.app.state.model_name
    agents = [_profile(one, default, answer.value.get(one.name, 0)) for one in roster.profiles]
    return answered(request, answer.position, {"agents": agents})


def _profile(profile: AgentProfile, default_model: str, conversations: int) -> Mapping[str, Any]:
    return {
        "name": profile.name,
        "description": profile.description,
        "model": profile.model or default_model,
        "tools": profile.tools,
        "writes": profile.writes,
        "may_plan": profile.may_plan,
        "conversations": conversations,
    }


@router.get("/conversations/{conversation_id}/agent")
async def get_agent(
    conversation_id: ConversationId,
    request: Request,
    caller: Chatter,
    reads: TheReads,
    min_position: MinPosition = 0,
) -> Response:
    """Say who is on and since when, who was on before, and how the agents were switched."""
    answer = await reads.patience.read(
        "agent_activity", min_position, lambda: reads.agents.stints(caller.subject, conversation_id)
    )
    if answer.value is None:
        raise ConversationNotFoundError
    now = answer.value[0]
    switches = [_switch(stint) for stint in answer.value if stint.from_agent is not None]
    body = {"agent": now.agent, "since": now.since, "switches": switches, "stints": answer.value}
    return answered(request, answer.position, body)


def _switch(stint: Stint) -> Mapping[str, Any]:
    return {
        "from": stint.from_agent,
        "to": stint.agent,
        "reason": stint.reason,
        "requested_by": stint.requested_by,
        "position": stint.position,
        "at": stint.since,
    }


# --- usage ---------------------------------------------------------------------------------------


@router.get("/usage")
async def get_usage(
    request: Request,
    caller: Chatter,
    reads: TheReads,
    paging: Paging,
    by: Annotated[
        str, Query(max_length=100, description="agent, model, conversation, day; with commas")
    ] = "",
    from_day: Annotated[date | None, Query(alias="from", description="The first day, in UTC.")] = None,
    to_day: Annotated[date | None, Query(alias="to", description="The last day, in UTC.")] = None,
    agent: Word | None = None,
    model: Word | None = None,
    conversation: Word | None = None,
    everybody: Annotated[bool, Query(description="Of all subjects; needs the scope operate.")] = False,
) -> Response:
    """Return tokens, calls and milliseconds of the models, in the groups asked for."""
    if everybody:
        caller.need("operate")
    groups = _groups(by)
    list_ = ",".join(("usage", *groups))  # a cursor belongs to the groups it was given for
    after = names_of(list_, paging.cursor, len(groups))
    owner = None if everybody else caller.subject
    wanted = UsageFilter(owner, _day(from_day), _day(to_day), agent, model, conversation)
    answer = await reads.patience.read(
        "usage", paging.min_position, lambda: reads.usage.page(groups, wanted, after, paging.limit)
    )
    page = answer.value
    following = next_of(list_, page, lambda one: list(one.group.values()))
    return answered(request, answer.position, {"usage": page.items, "next": following})


def _day(day: date | None) -> str | None:
    return day.isoformat() if day else None


def _groups(by: str) -> list[UsageGroup]:
    names = [name for name in by.split(",") if name]
    groups = [group for group in USAGE_GROUPS if group in names]
    if len(groups) != len(names):
        raise InvalidFilterError(name="by", reason=f"it is any of {', '.join(USAGE_GROUPS)}, each once")
    return groups
