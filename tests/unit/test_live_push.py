"""A reader who keeps up is sent what is new at once; everybody else gets it through their queue, once."""

from application.subscription import Batch, FeedItem, Subscription


def batch(*positions: int) -> Batch:
    return Batch([FeedItem("conversation.renamed", position, {}) for position in positions])


class Socket:
    """Takes batches as long as it is not full."""

    def __init__(self) -> None:
        self.is_full = False
        self.taken: list[int | None] = []

    def push(self, given: Batch) -> bool:
        if not self.is_full:
            self.taken += [item.position for item in given.items]
        return not self.is_full


def reader(socket: Socket, *, position: int = 0, is_idle: bool = True) -> Subscription:
    return Subscription(None, None, 0, push=socket.push, position=position, is_idle=is_idle)


def queued(one: Subscription) -> list[int | None]:
    return [item.position for item in one.take()]


def test_a_reader_who_waits_is_sent_what_is_new_without_being_woken() -> None:
    socket = Socket()
    one = reader(socket)
    one.give(batch(1, 2))
    one.give(batch(3))
    assert (socket.taken, one.position, one.woken.is_set(), queued(one)) == ([1, 2, 3], 3, False, [])


def test_what_a_reader_has_read_from_the_log_is_not_sent_again() -> None:
    socket = Socket()
    one = reader(socket, position=2)
    one.give(batch(1, 2))
    one.give(batch(2, 3))
    assert (socket.taken, queued(one)) == ([], [3])


def test_a_reader_who_is_still_being_sent_something_gets_the_rest_after_it() -> None:
    socket = Socket()
    one = reader(socket, is_idle=False)
    one.give(batch(1))
    one.is_idle = True
    one.give(batch(2))  # the first has yet to be taken from the queue
    assert (socket.taken, one.woken.is_set(), queued(one)) == ([], True, [1, 2])


def test_a_socket_that_is_full_leaves_it_in_the_queue() -> None:
    socket = Socket()
    one = reader(socket)
    socket.is_full = True
    one.give(batch(1))
    socket.is_full = False
    one.give(batch(2))
    assert (socket.taken, queued(one)) == ([], [1, 2])
