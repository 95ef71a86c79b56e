"""Seals the log while it grows: a thread that hashes what was committed and signs checkpoints."""

import asyncio
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import psycopg
import structlog

from domain.errors import MinutebookError
from infrastructure.audit import seal_store
from infrastructure.audit.leaf import HEAD, read_leaves
from infrastructure.audit.merkle import TILE, Growth, Tile, leaf_hash
from infrastructure.audit.notes import Checkpoint, NoteError, Signer, parsed, signed
from infrastructure.audit.seal_store import EdgeError, MovedError, Sealed
from infrastructure.audit.signing import Signing
from infrastructure.keys import KeyUnusableError
from infrastructure.postgres.connections import arguments

_PAGE: Final = 500  # events hashed without a pause: a few milliseconds
_MOST: Final = 50_000  # events between two checkpoints, however many there are
_RECONNECT_S: Final = 1.0
_STATEMENT_S: Final = 60.0
_REMIND_S: Final = 60.0  # how often a log line says again that sealing has stopped
# A sealer whose machine is gone loses its lock within seconds, so that another can take over.
_GONE: Final = " -c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=2"

logger = structlog.get_logger("minutebook.seal")


class SealingStoppedError(MinutebookError):
    """Sealing has stopped: {reason}."""

    code = "sealing_stopped"


class SealMetrics(Protocol):
    """What is counted of sealing. `lag` is events."""

    def sealed_at(self, lag: int, is_failed: bool) -> None: ...

    def checkpoint_signed(self) -> None: ...


@dataclass
class _Held:
    """What the process that seals goes on from."""

    number: int
    growth: Growth
    signer: Signer


class Sealer:
    """Seals the log in a thread with one connection, wherever no other process does.

    While there is something new it signs a checkpoint every `interval_s` seconds. Where it cannot (the key is
    lost, the log is not what was sealed) it says so in the log, in `seal_failed` and in `trouble`, and tries
    again; nothing else is held up.
    """

    def __init__(
        self, url: str, signing: Signing, metrics: SealMetrics | None = None, interval_s: float = 1.0
    ) -> None:
        self._url = url
        self._signing = signing
        self._metrics = metrics
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sealer", daemon=True)
        self._said_at = 0.0
        self._held: _Held | None = None
        self._reached = (0, 0)  # the number and size of the newest checkpoint that this process has known
        self.trouble: str | None = None  # one sentence, with no path in it, while sealing has stopped

    def start(self) -> None:
        """Begin. The database need not be there yet."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop after the page at hand; what is not sealed yet is left to whoever comes next."""
        self._stopping.set()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with _connect(self._url) as connection:
                    self._watch(connection)
            except (psycopg.Error, OSError) as error:
                logger.warning("sealer_disconnected", why=type(error).__name__)
            except Exception:
                logger.exception("sealer_broke")
            self._held = None
            self._stopping.wait(_RECONNECT_S)

    def _watch(self, connection: psycopg.Connection) -> None:
        while not self._stopping.is_set():
            head, size = seal_store.heads(connection)
            try:
                if size < self._reached[1]:
                    self._refuse_vanished(seal_store.newest(connection))
                if self._holds(connection, head):
                    self._seal(connection, head)
                self.trouble = None
            except MovedError:  # the key was changed: begin again with the new one
                self._let_go(connection)
            except (SealingStoppedError, KeyUnusableError) as error:
                self._stopped(error)
                self._let_go(connection)
            if self._metrics:
                self._metrics.sealed_at(max(head - size, 0), self.trouble is not None)
            self._stopping.wait(self._interval_s)

    # ------------------------------------------------------------ who seals
    def _holds(self, connection: psycopg.Connection, head: int) -> bool:
        """Return whether this process seals, taking over where nobody does."""
        if self._held is None and seal_store.try_lock(connection):
            self._held = self._taken_over(connection, head)
        return self._held is not None

    def _taken_over(self, connection: psycopg.Connection, head: int) -> _Held:
        found = seal_store.newest(connection)
        self._refuse_vanished(found)
        if found is None:
            return _Held(0, Growth(), self._first_signer())
        signer = self._signing.signer(may_create=False)
        if not is_ours(signer, found):
            raise SealingStoppedError(reason="the newest checkpoint is not signed with this key and origin")
        if head < found.size:
            raise SealingStoppedError(reason=f"the log ends at {head}, but {found.size} events are sealed")
        try:
            return _Held(found.number, seal_store.growth_at(connection, found), signer)
        except EdgeError:
            raise SealingStoppedError(reason="what is stored of the tree is not what was signed") from None

    def _refuse_vanished(self, found: Sealed | None) -> None:
        """Checkpoints only ever get more: where newer ones were there before, somebody has removed them."""
        newest = (found.number, found.size) if found else (0, 0)
        number, size = self._reached
        if newest[0] < number or newest[1] < size:
            raise SealingStoppedError(
                reason=f"checkpoint {number} of {size} events was there, and now the newest is {newest[0]} of"
                f" {newest[1]}: somebody has removed checkpoints, or put the database back"
            )
        self._reached = newest

    def _first_signer(self) -> Signer:
        # Where public keys are listed a key has signed before, whatever has become of its checkpoints.
        signer = self._signing.signer(may_create=not self._signing.verifiers_path.exists())
        try:
            known = {one.verifier for one in self._signing.verifiers()}
            if signer.verifier not in known or not self._signing.verifiers_path.exists():
                self._signing.note_verifier(0, signer.verifier)
        except (KeyUnusableError, NoteError):
            if self._signing.given is None:  # a given key needs no folder
                raise
        return signer

    def _let_go(self, connection: psycopg.Connection) -> None:
        self._held = None
        seal_store.unlock(connection)

    def _stopped(self, error: MinutebookError) -> None:
        sentence = (
            "The signing key cannot be used; the log says why."
            if isinstance(error, KeyUnusableError)
            else str(error)
        )
        if sentence != self.trouble or time.monotonic() - self._said_at >= _REMIND_S:
            logger.error("sealing_stopped", reason=str(error))
            self._said_at = time.monotonic()
        self.trouble = sentence

    # ------------------------------------------------------------ sealing
    def _seal(self, connection: psycopg.Connection, head: int) -> None:
        """Seal all up to `head`, with a checkpoint every so often."""
        assert self._held is not None  # noqa: S101 (this process holds the lock)
        held, self._held = self._held, None  # what breaks off is looked up again
        if head < held.growth.size:
            raise SealingStoppedError(
                reason=f"the log ends at {head}, but {held.growth.size} events are sealed"
            )
        while held.growth.size < head and not self._stopping.is_set():
            self._sign(connection, held, min(head, held.growth.size + _MOST))
        self._held = held

    def _sign(self, connection: psycopg.Connection, held: _Held, head: int) -> None:
        """Seal up to `head`: hash it page by page, sign the root, and write both in one transaction."""
        growth, hashes, tiles = held.growth, list[bytes](), list[Tile]()
        while growth.size < head:
            began = time.monotonic()
            page = self._page(connection, growth.size, min(head, growth.size + _PAGE))
            tiles += growth.add(page)
            hashes = [*hashes, *page][-TILE:]
            if growth.size < head:  # much to do: the turns of this process come first
                time.sleep(time.monotonic() - began)
        checkpoint = Checkpoint(self._signing.origin, head, growth.root())
        new = hashes[len(hashes) - min(len(hashes), head % TILE) :]
        note = signed(checkpoint, [held.signer])
        stored = Sealed(held.number + 1, head, datetime.now(UTC), checkpoint.root, b"".join(new), note)
        if held.number == 0:
            logger.info("sealing_begins", verifier=held.signer.verifier.vkey)
        seal_store.write(connection, held.number, stored, tiles)
        held.number += 1
        self._reached = (held.number, head)
        if self._metrics:
            self._metrics.checkpoint_signed()

    def _page(self, connection: psycopg.Connection, after: int, last: int) -> list[bytes]:
        """Return the hashes of these leaves, all of which have to be there."""
        page, expected = list[bytes](), after
        for leaf in read_leaves(connection, after, last):
            expected += 1
            if HEAD.unpack_from(leaf)[0] != expected:
                break
            page.append(leaf_hash(leaf))
        if after + len(page) != last:
            raise SealingStoppedError(reason=f"the event at position {after + len(page) + 1} is missing")
        return page


def is_ours(signer: Signer, found: Sealed) -> bool:
    """Whether this key has signed the checkpoint, as it is stored."""
    try:
        note = parsed(found.note)
        said = note.checkpoint()
    except NoteError:
        return False
    return (said.size, said.root) == (found.size, found.root) and signer.verifier.has_signed(note)


def _connect(url: str) -> psycopg.Connection:
    settings = arguments("minutebook seal", _STATEMENT_S)
    settings["options"] += _GONE
    return psycopg.Connection.connect(url, **settings)
