"""The client: every stream goes on by itself after a break, without a gap and without a repeat."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from math import inf
from types import TracebackType
from typing import Any, Final, Literal, Self
from uuid import uuid4

import httpx

from minutebook_client.erasure import Erasure, erasure_of
from minutebook_client.frames import Frame, RefusedError, UnreachableError, parsed

# A server says something every 15 seconds at least; one that is silent for longer has gone.
TIMEOUT: Final = httpx.Timeout(10, read=40)
# A stream that was open for longer was cut, and not refused.
STEADY_S: Final = 1.0
NOT_NOW: Final = (429, 502, 503, 504)
UNSET: Final = object()

Decision = Literal["approve", "edit", "reject"]
Frames = AsyncGenerator[Frame, None]
Ask = tuple[str, str, Any]  # method, path, body


class Client:
    """A client of the server at `url`, for an `async with` block.

    `headers` go with every request (who asks, for instance). A stream that breaks is asked for again
    from its last frame on, until nothing has come for `patience_s` seconds. What the server refuses raises
    `RefusedError`, a server that stays away `UnreachableError`.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, patience_s: float = 60.0) -> None:
        is_secret = httpx.URL(url).scheme == "https"  # to read all certificates holds the loop up for nothing
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, verify=is_secret)
        self._patience_s = patience_s

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, raised, trace)

    # --- sending ---------------------------------------------------------------------------------

    def send(
        self, message: Mapping[str, Any], *, conversation_id: str | None = None, turn_id: str | None = None
    ) -> Frames:
        """Send one of the five messages and stream its turn to the end.

        However often the connection breaks, it is one turn: its id is chosen here, before it is sent.
        """
        turn_id = turn_id or str(uuid4())
        body = {"turn_id": turn_id, "message": message}
        if conversation_id:
            body["conversation_id"] = conversation_id
        return self._turn(turn_id, ("POST", "/v1/messages/stream", body))

    def say(
        self,
        content: str,
        *,
        conversation_id: str | None = None,
        turn_id: str | None = None,
        agent: str | None = None,
    ) -> Frames:
        """Send what a person says; without a conversation a new one begins."""
        message = {"type": "user_message", "content": content, **({"agent": agent} if agent else {})}
        return self.send(message, conversation_id=conversation_id, turn_id=turn_id)

    def answer(
        self, conversation_id: str, call_id: str, result: Any = UNSET, *, error: str | None = None
    ) -> Frames:
        """Give a tool's result (any JSON, None included) or the text of its error."""
        given = {"error": error} if result is UNSET else {"result": result}
        message = {"type": "tool_result", "call_id": call_id, **given}
        return self.send(message, conversation_id=conversation_id)

    def decide(
        self,
        conversation_id: str,
        call_id: str,
        decision: Decision,
        *,
        arguments: Mapping[str, Any] | None = None,
        feedback: str | None = None,
    ) -> Frames:
        """Decide on a tool call; an edit brings the whole arguments."""
        given = {"arguments": arguments, "feedback": feedback}
        message = {"type": "hitl_decision", "call_id": call_id, "decision": decision}
        return self.send(message | _set(given), conversation_id=conversation_id)

    def decide_plan(
        self,
        conversation_id: str,
        plan_id: str,
        plan_version: int,
        decision: Literal["approve", "modify", "reject"],
        *,
        feedback: str | None = None,
    ) -> Frames:
        """Decide on one version of a plan; `modify` needs feedback."""
        about = {"plan_id": plan_id, "plan_version": plan_version, "decision": decision}
        message = {"type": "plan_decision", **about, **_set({"feedback": feedback})}
        return self.send(message, conversation_id=conversation_id)

    def switch(self, conversation_id: str, agent: str, *, reason: str | None = None) -> Frames:
        """Put another agent on."""
        message = {"type": "switch_agent", "agent": agent, **_set({"reason": reason})}
        return self.send(message, conversation_id=conversation_id)

    # --- turns and conversations -----------------------------------------------------------------

    def watch_turn(self, turn_id: str, after: str | None = None) -> Frames:
        """Stream a turn to its end, from the frame after this id on."""
        return self._turn(turn_id, None, after)

    def retry(self, turn_id: str) -> Frames:
        """Run a failed or abandoned turn again and stream it."""
        return self._turn(turn_id, ("POST", f"/v1/turns/{turn_id}/retry", None))

    def watch_conversation(self, conversation_id: str, after: int = 0) -> Frames:
        """Stream a conversation's events after this position, for ever; 0 is the start.

        Frames of running turns come in between. They have no id and no position, and may vanish in a break.
        """
        ask = ("GET", f"/v1/conversations/{conversation_id}/feed", None)
        return self._resumed(ask, ask, str(after))

    async def cancel(self, turn_id: str) -> Mapping[str, Any]:
        """Stop a turn, keeping what was said; returns how it ended. Twice is once.

        One that has not ended in half a minute is returned as it is, still `running`: it was asked to stop.
        """
        return await self._asked("POST", f"/v1/turns/{turn_id}/cancel")

    async def turn(self, turn_id: str) -> Mapping[str, Any]:
        """Return how a turn stands."""
        return await self._asked("GET", f"/v1/turns/{turn_id}")

    async def erase(self, conversation_id: str, *, reason: str | None = None) -> Erasure:
        """Destroy what was said in a conversation, for good; asked again it returns the same receipt.

        The reason (up to 500 characters) stands in the log. Raises `RefusedError`: `conversation_not_found`,
        also for somebody else's; `turn_in_progress` while a turn runs in it; `forbidden`.
        """
        path = f"/v1/conversations/{conversation_id}/erase"
        return erasure_of(await self._asked("POST", path, _set({"reason": reason})))

    # --- how it goes on --------------------------------------------------------------------------

    async def _turn(self, turn_id: str, first: Ask | None, after: str | None = None) -> Frames:
        again = ("GET", f"/v1/turns/{turn_id}/stream", None)
        async with aclosing(self._resumed(first or again, again, after)) as frames:
            async for frame in frames:
                yield frame
                if frame.is_final:
                    return

    async def _resumed(self, first: Ask, again: Ask, cursor: str | None) -> Frames:
        """Ask `first` until there is a frame to go on from, then `again` from there, for ever."""
        patience = _Patience(self._patience_s)
        while True:
            ask = again if cursor and first != again else first
            try:
                async with aclosing(self._streamed(ask, cursor, patience)) as frames:
                    async for frame in frames:
                        cursor = frame.id or cursor
                        patience.renew()
                        yield frame
            except (httpx.TransportError, _NotNowError) as error:
                patience.last = error
            except RefusedError as refused:
                # It was heard the first time and its answer was lost: the turn runs again, or has done so.
                if not (patience.last and refused.status == 409 and ask[1].endswith("/retry")):
                    raise
                first = again
            await patience.wait()

    async def _streamed(self, ask: Ask, cursor: str | None, patience: "_Patience") -> Frames:
        method, path, body = ask
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": cursor} if cursor else {})}
        async with self._http.stream(method, path, json=body, headers=headers) as response:
            if response.status_code != 200:
                await response.aread()
                _raise(response)
            patience.answered()
            async for frame in parsed(response.aiter_bytes()):
                yield frame

    async def _asked(self, method: str, path: str, body: Any = None) -> Mapping[str, Any]:
        patience = _Patience(self._patience_s)
        while True:
            try:
                response = await self._http.request(method, path, json=body)
                if response.status_code in (200, 202):
                    answer: Mapping[str, Any] = response.json()
                    return answer
                _raise(response)
            except (httpx.TransportError, _NotNowError) as error:
                patience.last = error
            await patience.wait()


class _NotNowError(Exception):
    """The server, or a proxy before it, asks to come back later."""


class _Patience:
    """Pauses that grow from 0.1 to 5 seconds, each a little different from other clients'.

    It runs out `limit_s` seconds after the first break that nothing has come after: no frame, and no stream
    that stayed open for `STEADY_S` seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self.last: Exception | None = None
        self._limit_s = limit_s
        self.renew()

    def renew(self) -> None:
        self._since: float | None = None
        self._answered_at = inf
        self._pause_s = 0.1

    def answered(self) -> None:
        self._answered_at = time.monotonic()

    async def wait(self) -> None:
        if time.monotonic() - self._answered_at > STEADY_S:
            self.renew()
        self._answered_at = inf
        if self._since is None:
            self._since = time.monotonic()
        if time.monotonic() - self._since > self._limit_s:
            raise UnreachableError(f"no answer for {self._limit_s:g} seconds: {self.last}") from self.last
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1))  # noqa: S311 (not a secret)
        self._pause_s = min(5.0, self._pause_s * 2)


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _raise(response: httpx.Response) -> None:
    """Raise what a refusal means."""
    if response.status_code in NOT_NOW:
        raise _NotNowError(f"status {response.status_code}")
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    raise RefusedError(response.status_code, problem if isinstance(problem, dict) else {})
