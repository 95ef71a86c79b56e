"""What was sealed of the log: its checkpoints, the keys that signed them, and whether it still fits."""

from collections.abc import Mapping
from typing import Final

import psycopg

from api.bootstrap.keys import signing_of
from api.settings import Settings, SettingsError
from infrastructure.audit import seal_store
from infrastructure.audit.rotation import Rotated, rotate
from infrastructure.audit.sealer import is_ours
from infrastructure.audit.signing import parsed_verifiers
from infrastructure.audit.verify import OnProgress, Verification, Verified, exported_in, workers_here
from infrastructure.keys import KeyUnusableError
from infrastructure.postgres.connections import arguments

__all__ = [
    "Verified",
    "check_signing_key",
    "checkpoint_notes",
    "public_keys",
    "rotate_signing_key",
    "verify_log",
]
_NEXT: Final = (
    "Put a copy of it back or, where it is lost, begin with a new one: minutebook audit rotate-key."
)


def checkpoint_notes(url: str, *, everything: bool = False) -> list[str]:
    """Return the newest signed checkpoint, or all of them, the oldest first; none where nothing is sealed."""
    with psycopg.connect(url, **arguments("minutebook seal", 0)) as connection:
        return seal_store.notes(connection, everything=everything)


def verify_log(
    url: str, settings: Settings, exported: Mapping[str, str], verifiers: str | None, on_progress: OnProgress
) -> Verified:
    """Compare the log with what was sealed of it, and with the checkpoints in `exported`: name to content.

    `verifiers` are the public keys, those beside the signing key where None is given. Raises
    `MinutebookError` where a key cannot be read, and `psycopg.Error`.
    """
    keys = parsed_verifiers(verifiers) if verifiers is not None else signing_of(settings).verifiers_or_none()
    kept = [one for name, content in exported.items() for one in exported_in(name, content, keys)]
    return Verification(url, keys, kept, workers=workers_here(), on_progress=on_progress).run()


def public_keys(settings: Settings) -> list[str]:
    """Return the public keys of checkpoints, a line each: from which size on, and the key."""
    return [f"{one.size} {one.verifier.vkey}" for one in signing_of(settings).verifiers()]


def check_signing_key(settings: Settings, url: str) -> None:
    """Find what would stop sealing, and make no key where nothing is sealed yet. Raises `SettingsError`."""
    with psycopg.connect(url, **arguments("minutebook seal", 0)) as connection:
        found = seal_store.newest(connection)
    signing = signing_of(settings)
    if not settings.seal or (found is None and signing.given is None and not signing.verifiers_path.exists()):
        return
    try:
        signer = signing.signer(may_create=False)
    except KeyUnusableError as error:
        raise SettingsError(f"Nothing can be sealed: {error} {_NEXT}") from None
    if found and not is_ours(signer, found):
        raise SettingsError(f"The signing key is not the one that has signed the newest checkpoint. {_NEXT}")


def rotate_signing_key(url: str, settings: Settings) -> Rotated:
    """Sign with a new key from now on."""
    return rotate(url, signing_of(settings))
