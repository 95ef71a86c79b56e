"""A new signing key, handed over so that everybody can follow: the newest checkpoint, signed by both."""

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from infrastructure.audit import seal_store
from infrastructure.audit.notes import Checkpoint, NoteError, Signer, Verifier, parsed, signed
from infrastructure.audit.signing import SETTING, Signing
from infrastructure.audit.verify_range import connect
from infrastructure.keys import KEY_BYTES, KeyExposedError, KeyUnusableError, write_key


@dataclass(frozen=True)
class Rotated:
    """The new public key, from which size of the log it signs, and whether the old key has agreed."""

    verifier: Verifier
    size: int
    is_handed_over: bool


def rotate(url: str, signing: Signing) -> Rotated:
    """Sign from now on with a new key; where a setting gives the key, with that one.

    The newest checkpoint is stored once more, signed by the new key and, where it can be read, by the old
    one. A running sealer goes on with the new key by itself. Raises `KeyUnusableError` where a key cannot be
    written, is no new one or can be read by others, and `psycopg.Error`.
    """
    key = secrets.token_bytes(KEY_BYTES)
    new = signing.signer(may_create=False) if signing.given else Signer(signing.origin, key)
    with connect(url) as connection, connection.transaction():
        seal_store.hold_off_writers(connection)
        found = seal_store.newest(connection)
        if found and new.verifier.has_signed(parsed(found.note)):
            raise KeyUnusableError(reason=f"{SETTING} is the one that signs already; set the new one first")
        old = _old(replace(signing, given=None), found) if found else None
        size = found.size if found else 0
        signing.note_verifier(size, new.verifier)
        if not signing.given:
            write_key(signing.key_path, key, replace=True)
        if found:
            note = signed(Checkpoint(signing.origin, size, found.root), [new, *([old] if old else [])])
            now = datetime.now(UTC)
            again = replace(found, number=found.number + 1, hashes=b"", note=note, recorded_at=now)
            seal_store.write(connection, found.number, again)
    return Rotated(new.verifier, size, old is not None)


def _old(signing: Signing, found: seal_store.Sealed) -> Signer | None:
    """Return the key that has signed the newest checkpoint, where it is still there."""
    try:
        signer = signing.signer(may_create=False)
        return signer if signer.verifier.has_signed(parsed(found.note)) else None
    except KeyExposedError:  # it is there: whoever takes it for lost breaks the chain for good
        raise
    except (KeyUnusableError, NoteError):
        return None
