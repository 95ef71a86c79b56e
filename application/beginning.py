"""Watching a conversation while its first turn runs: nothing is stored yet, and whose it becomes is open."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from application.errors import StoreUnavailableError
from application.subscription import FeedItem


async def own_only(
    items: AsyncIterator[list[FeedItem]], is_own: Callable[[str], Awaitable[bool]]
) -> AsyncIterator[list[FeedItem]]:
    """Pass on what one's own turns say, and end before the first word of anybody else's.

    Where the first turn ends badly the id is anybody's again, until an event is stored.
    """
    own: set[str] = set()
    is_settled = False
    async with aclosing(items) as batches:  # type: ignore[type-var]  # a generator
        async for batch in batches:
            if not is_settled:
                said_in = {str(item.body["turn_id"]) for item in batch} - own
                if not await _are_all(said_in, is_own):
                    return
                own |= said_in
                is_settled = any(item.position is not None for item in batch)
            yield batch


async def _are_all(turn_ids: set[str], is_own: Callable[[str], Awaitable[bool]]) -> bool:
    try:
        return all([await is_own(turn_id) for turn_id in turn_ids])
    except StoreUnavailableError:
        return False  # nobody can say: the client asks again
