"""The socket a server listens on."""

import asyncio
import socket

from api.server import listen


async def test_what_is_accepted_sends_at_once() -> None:
    delays: asyncio.Queue[int] = asyncio.Queue()

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        delays.put_nowait(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    sock = listen("127.0.0.1", 0)
    async with await asyncio.start_server(accept, sock=sock):
        _, client = await asyncio.open_connection(*sock.getsockname())
        client.close()
        assert await delays.get() == 1, "a second frame would wait for the client's delayed acknowledgement"
