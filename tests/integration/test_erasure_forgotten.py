"""Running servers forget what was erased: nothing that they can reach says it any more."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.integration.test_erasure import erase, followed
from tests.remembered import holders_of
from tests.serving import REPOSITORY, serving_reads

# What only the other process knows, in whole.
SIGN = "secret-"
SECRET = f"{SIGN}[0-9a-f]{{32}}"

TELL_IT = """
import asyncio, secrets, sys
import httpx
from tests.integration.test_erasure import talk
from tests.serving import Client

FEEDS = ("/v1/feed?after=0", "/v1/conversations/gone/feed?after=0")
READS = (
    "conversations", "conversations/gone", "conversations/gone/messages", "conversations/gone/approvals",
    "conversations/gone/agent", "approvals", "usage?by=conversation", "messages/search?q=WORD",
    "conversations?search=WORD", "audit/events?conversation=gone", "audit/events?text=WORD", "audit/export",
    "audit/events/3", "audit/conversations/gone?at=5",
)


async def tell(url, word, first):
    http = httpx.AsyncClient(base_url=url, timeout=60)
    if first:
        await talk(Client(http), "gone", word)
    feeds = [await http.send(http.build_request("GET", path), stream=True) for path in FEEDS]
    await Client(http).say(f"again {word}", conversation_id="gone")
    for path in READS:
        answer = await http.get("/v1/" + path.replace("WORD", word))
        assert answer.status_code == 200, (path, answer.text)
    return feeds


async def main(*urls):
    word = f"secret-{secrets.token_hex(16)}"
    watched = [await tell(url, word, url == urls[0]) for url in urls]
    print("told", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def somebody_telling(*urls: str) -> AsyncIterator[None]:
    """Let another process tell the secret, ask every door for it and watch; it stays until the end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TELL_IT, *urls, cwd=REPOSITORY, stdin=pipe, stdout=pipe
    )
    assert process.stdout
    try:
        assert await process.stdout.readline() == b"told\n"
        yield
    finally:
        await process.communicate(b"\n")


async def remembered() -> list[str]:
    """Return what holds the secret once the servers have had the time to hear of the erasure."""
    found: list[str] = []
    for _ in range(10):
        await asyncio.sleep(1)
        if not (found := holders_of(SIGN, SECRET)):
            break
    return found


@pytest.mark.may_block("it looks through all objects of the process")
async def test_nothing_in_running_servers_says_what_was_erased(database_url: str) -> None:
    async with (
        serving_reads(database_url) as one,
        serving_reads(database_url) as other,
        somebody_telling(one.url, other.url),
    ):
        await followed(database_url)
        assert holders_of(SIGN, SECRET), "else this test would find nothing whatever we did"
        await erase(one.client, "gone")
        await followed(database_url)
        assert await remembered() == []
