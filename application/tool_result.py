"""The client ran a tool; with the last open call answered the agent goes on."""

from application.agent_loop import proceed
from application.ports import Committed
from application.protocol import ToolResult
from application.turn import Kit, Turn, commit, commit_repetition


async def tool_result(message: ToolResult, turn: Turn, kit: Kit) -> Committed:
    """Record the one result of a call, and let the agent go on when nothing else is open."""
    async with kit.unit_of_work(turn.row.conversation_id, turn.row.turn_id) as work:
        first = work.conversation.receive_tool_result(message.call_id, message.result, message.error, turn.by)
        if first:
            return await commit_repetition(work, turn, kit, first)
        turn.open(work)
        if work.conversation.agent_may_go_on:
            await proceed(work, turn, kit)
        return await commit(work, turn)
