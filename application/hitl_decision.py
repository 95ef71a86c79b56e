"""A person decides on one tool call: approve, edit or reject."""

from application.agent_loop import proceed
from application.ports import Committed
from application.protocol import HitlDecision
from application.turn import Kit, Turn, commit, commit_repetition


async def hitl_decision(message: HitlDecision, turn: Turn, kit: Kit) -> Committed:
    """Record the decision; a rejected call is answered by it, so the agent may go on."""
    async with kit.unit_of_work(turn.row.conversation_id, turn.row.turn_id) as work:
        first = work.conversation.decide_call(
            message.call_id, message.decision, message.arguments, message.feedback, turn.by
        )
        if first:
            return await commit_repetition(work, turn, kit, first)
        turn.open(work)
        if message.decision == "reject" and work.conversation.agent_may_go_on:
            await proceed(work, turn, kit)
        return await commit(work, turn)
