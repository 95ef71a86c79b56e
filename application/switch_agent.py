"""The person wants another agent. No model is called."""

from application.ports import Committed
from application.protocol import SwitchAgent
from application.turn import Kit, Turn, commit, commit_repetition, switch_limit


async def switch_agent(message: SwitchAgent, turn: Turn, kit: Kit) -> Committed:
    """Put another agent on."""
    async with kit.unit_of_work(turn.row.conversation_id, turn.row.turn_id) as work:
        work.conversation.refuse_switch()
        limit = switch_limit(work.agent.name, kit.limits)
        reason = message.reason or ""
        first = work.agent.switch(message.agent, reason, turn.by.actor, turn.by, limit)
        if first:
            return await commit_repetition(work, turn, kit, first)
        turn.open(work)
        return await commit(work, turn)
