"""Checkpoints: what the log was at a size, as signed notes (C2SP signed-note, tlog-checkpoint; Ed25519)."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from domain.errors import MinutebookError
from infrastructure.audit.merkle import HASH_BYTES

_ED25519: Final = b"\x01"
_MARK: Final = "\N{EM DASH} "
_NAME: Final = re.compile(r"[^\s+]{1,200}\Z")
_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,18})\Z")


class NoteError(MinutebookError):
    """This is no checkpoint: {reason}."""

    code = "invalid_checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """The log's name, how many events it had, and the root over them."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True)
class Verifier:
    """A public key with its name."""

    name: str
    public: bytes

    @classmethod
    def parsed(cls, vkey: str) -> "Verifier":
        """Read a verifier key, `name+hash+key`. Raises `NoteError`."""
        name, _, key = (*vkey.strip().split("+", 2), "", "")[:3]
        made = cls(name, _base64(key)[1:])
        if not _NAME.match(name) or len(made.public) != HASH_BYTES or made.vkey != vkey.strip():
            raise NoteError(
                reason=f"{name[:40] or 'an empty line'} is no verifier key of the form name+hash+key"
            )
        return made

    @property
    def key_id(self) -> bytes:
        """The four bytes before its signatures."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key as others are given it."""
        key = base64.b64encode(_ED25519 + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def has_signed(self, note: "Note") -> bool:
        """Return whether one of the note's signatures is of this key."""
        for name, key_id, signature in note.signatures:
            if (name, key_id) == (self.name, self.key_id):
                try:
                    Ed25519PublicKey.from_public_bytes(self.public).verify(signature, note.text.encode())
                except InvalidSignature:
                    return False
                return True
        return False


class Signer:
    """A private key with its name."""

    def __init__(self, name: str, key: bytes) -> None:
        """Take the 32 bytes of an Ed25519 key. Raises `NoteError` for a name that notes cannot carry."""
        if not _NAME.match(name):
            raise NoteError(reason="its origin has to be without spaces and +")
        self._private = Ed25519PrivateKey.from_private_bytes(key)
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = Verifier(name, public)

    def line(self, text: str) -> str:
        """Return the line that signs a text."""
        signed = self.verifier.key_id + self._private.sign(text.encode())
        return f"{_MARK}{self.verifier.name} {base64.b64encode(signed).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A text and its signatures: (name, key id, signature)."""

    text: str
    signatures: Sequence[tuple[str, bytes, bytes]]

    def checkpoint(self) -> Checkpoint:
        """Return what it says. Raises `NoteError`."""
        origin, size, root, *_ = (*self.text.split("\n"), "", "")[:4]
        hashed = _base64(root)
        if not origin or not _SIZE.match(size) or len(hashed) != HASH_BYTES:
            raise NoteError(reason="it needs an origin, a size and a root of 32 bytes, a line each")
        return Checkpoint(origin, int(size), hashed)


def signed(checkpoint: Checkpoint, signers: Iterable[Signer]) -> str:
    """Return the signed note."""
    return checkpoint.text + "\n" + "".join(signer.line(checkpoint.text) for signer in signers)


def parsed(note: str) -> Note:
    """Read a signed note. Raises `NoteError`."""
    text, blank, lines = note.rpartition("\n\n")
    signatures = [_signature(line) for line in lines.splitlines()]
    if not blank or not signatures:
        raise NoteError(reason="it needs a text, an empty line and signatures")
    return Note(text + "\n", signatures)


def notes_in(content: str) -> Iterator[str]:
    """Return the notes that stand one after the other, as an export has them."""
    lines: list[str] = []
    for line in content.splitlines():
        if lines and lines[-1].startswith(_MARK) and not line.startswith(_MARK):
            yield "\n".join(lines).lstrip("\n") + "\n"
            lines = []
        lines.append(line)
    if any(lines):
        yield "\n".join(lines).lstrip("\n") + "\n"


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, _, value = line.removeprefix(_MARK).partition(" ")
    signed = _base64(value)
    if not line.startswith(_MARK) or not _NAME.match(name) or len(signed) < 5:
        raise NoteError(reason="a signature line is not as it should be")
    return name, signed[:4], signed[4:]


def _base64(text: str) -> bytes:
    """Return what the text says, nothing where it is not valid."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
