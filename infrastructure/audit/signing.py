"""The signing key and the list of public keys: files in the key folder, unless settings give the key.

`signing.key` is the private key. `verifiers` has a line for each key that has ever signed: from which size of
the log on, and the key as C2SP writes it (`name+hash+key`). A key signs up to the size at which the
next begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infrastructure.audit.notes import Note, NoteError, Signer, Verifier
from infrastructure.keys import KeyUnusableError, create_or_read_key, given_key, make_key_folder, read_key

SETTING: Final = "MINUTEBOOK_SIGNING_KEY"
_HEADER: Final = "# <size of the log from which it signs> <verifier key>; see docs/audit.md\n"


@dataclass(frozen=True)
class Signing:
    """How checkpoints are signed: the log's name, the key folder, and the key where a setting gives it."""

    origin: str
    folder: Path
    given: str | None = None

    @property
    def key_path(self) -> Path:
        """Where the private key is kept, unless it is given."""
        return self.folder / "signing.key"

    @property
    def verifiers_path(self) -> Path:
        """Where the public keys are kept."""
        return self.folder / "verifiers"

    def signer(self, *, may_create: bool) -> Signer:
        """Return the present key; without one make it, where that is allowed. Raises `KeyUnusableError`."""
        try:
            return Signer(self.origin, self._key(may_create=may_create))
        except NoteError as error:
            raise KeyUnusableError(reason=str(error.details["reason"])) from None

    def _key(self, *, may_create: bool) -> bytes:
        if self.given:
            return given_key(self.given, SETTING)
        return create_or_read_key(self.key_path) if may_create else read_key(self.key_path)

    def verifiers(self) -> list["Since"]:
        """Return the public keys, oldest first; where no list is kept, that of the present key.

        Raises `KeyUnusableError` and `NoteError`.
        """
        try:
            content = self.verifiers_path.read_text()
        except FileNotFoundError:
            return [Since(0, self.signer(may_create=False).verifier)]
        except OSError as error:
            raise KeyUnusableError(
                reason=f"{self.verifiers_path} cannot be read ({error.strerror})"
            ) from None
        except UnicodeDecodeError:
            raise KeyUnusableError(reason=f"{self.verifiers_path} is no list of public keys") from None
        return parsed_verifiers(content)

    def verifiers_or_none(self) -> list["Since"]:
        """As `verifiers`, but empty where no key was ever made: then nothing can have been signed.

        Raises `KeyUnusableError` and `NoteError`.
        """
        is_new = self.given is None and not self.verifiers_path.exists() and not self.key_path.exists()
        return [] if is_new else self.verifiers()

    def note_verifier(self, size: int, verifier: Verifier) -> None:
        """Add a public key to the list. Raises `KeyUnusableError` where it cannot be written."""
        path = self.verifiers_path
        try:
            make_key_folder(path.parent)
            content = path.read_text() if path.exists() else _HEADER
            draft = path.with_name(f".{path.name}.new")
            draft.write_text(f"{content}{size} {verifier.vkey}\n")
            draft.replace(path)
        except OSError as error:
            raise KeyUnusableError(reason=f"{path} cannot be written ({error.strerror})") from None
        except UnicodeDecodeError:
            raise KeyUnusableError(reason=f"{path} is no list of public keys") from None


@dataclass(frozen=True)
class Since:
    """A public key, and the size of the log from which it signs."""

    size: int
    verifier: Verifier


def parsed_verifiers(content: str) -> list[Since]:
    """Read a list of public keys, as the file has it. Raises `NoteError`."""
    found = []
    for line in content.splitlines():
        if line.strip() and not line.startswith("#"):
            size, _, vkey = line.partition(" ") if line[:1].isdigit() else ("0", "", line)
            if not size.isdecimal():
                raise NoteError(reason="a line of the verifiers has no size before its key")
            found.append(Since(int(size), Verifier.parsed(vkey)))
    return sorted(found, key=lambda one: one.size)


def flaw(note: Note, verifiers: Sequence[Since]) -> str | None:
    """Say what is wrong with a note's signature, None where it holds.

    It has to be signed by the key of its size; at the size of a change the old key will do, or the new one.
    """
    if not verifiers:
        return "cannot be verified: there is no public key"
    size = note.checkpoint().size
    times = zip(verifiers, [*(one.size for one in verifiers[1:]), None], strict=True)
    valid = [one for one, end in times if one.size <= size and (end is None or size <= end)]
    signers = [one for one in verifiers if one.verifier.has_signed(note)]
    if any(one in valid for one in signers):
        return None
    return "is signed by a key that was not in use at its size" if signers else "is not signed by our key"
