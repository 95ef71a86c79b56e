"""The person renames, archives or reopens a conversation. No model is called."""

from application.agent_loop import return_from_plan
from application.ports import Committed, UnitOfWork
from application.protocol import Amend
from application.turn import Kit, Turn, commit


async def amend(message: Amend, turn: Turn, kit: Kit) -> Committed:
    """Record what is to change; what is so already records nothing."""
    async with kit.unit_of_work(turn.row.conversation_id, turn.row.turn_id) as work:
        if message.archived is False:
            work.conversation.reopen(turn.by)
        if message.title is not None:
            work.conversation.rename(message.title, turn.by)
        if message.archived:
            _archive(work, turn)
        turn.open(work)
        return await commit(work, turn)


def _archive(work: UnitOfWork, turn: Turn) -> None:
    left = work.conversation.plan_in("execution")
    work.conversation.archive(turn.by)
    if left:
        return_from_plan(left, work, turn)
