"""A person said something; the agent answers."""

from application.agent_loop import proceed, return_from_plan
from application.ids import new_id
from application.ports import Committed, UnitOfWork
from application.protocol import UserMessage
from application.turn import Kit, Turn, commit, switch_limit


async def user_message(message: UserMessage, turn: Turn, kit: Kit) -> Committed:
    """Record the message, superseding what was open, and let the agent answer."""
    async with kit.unit_of_work(turn.row.conversation_id, turn.row.turn_id) as work:
        if work.is_new:
            work.start(turn.by, message.agent or kit.roster.first)
        left = work.conversation.plan_in("execution")
        work.conversation.receive_user_message(new_id(), message.content, turn.by)
        if left:
            return_from_plan(left, work, turn)
        _put_on(message.agent, work, turn, kit)
        turn.open(work)
        await proceed(work, turn, kit)
        return await commit(work, turn)


def _put_on(agent: str | None, work: UnitOfWork, turn: Turn, kit: Kit) -> None:
    if agent:
        limit = switch_limit(work.agent.name, kit.limits)
        work.agent.switch(agent, "asked for with the message", turn.by.actor, turn.by, limit)
