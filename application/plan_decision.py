"""A person decides on one version of a plan: approve, modify or reject."""

from application.agent_loop import proceed, return_from_plan
from application.ports import Committed
from application.protocol import PlanDecision
from application.turn import Kit, Turn, commit, commit_repetition


async def plan_decision(message: PlanDecision, turn: Turn, kit: Kit) -> Committed:
    """Record the decision: an approved plan is carried out, one sent back gets its next version."""
    async with kit.unit_of_work(turn.row.conversation_id, turn.row.turn_id) as work:
        plan = work.conversation.plan_in("review")
        first = work.conversation.decide_plan(
            message.plan_id, message.plan_version, message.decision, message.feedback, turn.by
        )
        if first:
            return await commit_repetition(work, turn, kit, first)
        turn.open(work)
        if plan and message.decision == "modify":
            return_from_plan(plan, work, turn)  # whoever proposed it proposes its next version
        if message.decision != "reject":
            await proceed(work, turn, kit)
        return await commit(work, turn)
