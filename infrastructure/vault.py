"""What is kept secret: a data key a conversation, each wrapped by one master key (AES-256-GCM)."""

import os
from collections import OrderedDict
from threading import Lock
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from domain.errors import ConversationErasedError, MinutebookError
from infrastructure.packing import packed, unpacked

KEY_BYTES: Final = 32
# What is sealed begins with this byte, which no JSON begins with: one byte, 12 of nonce, the ciphertext of
# what `packing` makes of the data.
SEALED: Final = b"\x01"
ERASED_DATA: Final = b'{"erased":true}'
_NONCE: Final = 12
_NONCES_AT_ONCE: Final = 256


class StoredDataError(MinutebookError):
    """What is stored cannot be read: {reason}."""

    code = "internal_error"


class Key(Protocol):
    """What opens the data of one conversation, erased or not."""

    def open(self, sealed: bytes, about: bytes) -> bytes: ...


def _nonces() -> list[bytes]:
    some = os.urandom(_NONCE * _NONCES_AT_ONCE)
    return [some[start : start + _NONCE] for start in range(0, len(some), _NONCE)]


class DataKey:
    """A key of 32 bytes, ready to seal and to open. It may be shared by threads, but not by forks."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, data: bytes, about: bytes) -> bytes:
        """Pack and seal the data; it opens only together with the same `about`."""
        nonce = _nonce()
        return SEALED + nonce + self._aead.encrypt(nonce, packed(data), about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """Return what was sealed, unpacked; what was never sealed is returned as it is.

        Raises `StoredDataError` where a bit of it, of `about` or of the key is another.
        """
        if not sealed.startswith(SEALED):
            return sealed
        try:
            return unpacked(self._aead.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], about))
        except (InvalidTag, ValueError):
            where = about.decode(errors="replace").replace("\n", " ")
            raise StoredDataError(reason=f"{where} is not what was sealed, or not with this key") from None


class ErasedKey:
    """Stands for a key that has been destroyed: what it sealed reads as erased."""

    def seal(self, _data: bytes, _about: bytes) -> bytes:
        """Raise `ConversationErasedError`."""
        raise ConversationErasedError

    def open(self, sealed: bytes, _about: bytes) -> bytes:
        """Return the data of an erased event; what was never sealed is returned as it is."""
        return ERASED_DATA if sealed.startswith(SEALED) else sealed


class NoKey:
    """Stands for a key that is not in the key store: only what was never sealed can be read."""

    def __init__(self, conversation: str) -> None:
        self._conversation = conversation

    def open(self, sealed: bytes, _about: bytes) -> bytes:
        """Return what was never sealed. Raises `StoredDataError` for everything else."""
        if sealed.startswith(SEALED):
            raise StoredDataError(reason=f"the key store has no key of conversation {self._conversation}")
        return sealed


class Nonces:
    """Random nonces, a few hundred at a time from the system."""

    def __init__(self) -> None:
        self._left: list[bytes] = []

    def __call__(self) -> bytes:
        """Return the next one; no two callers get the same."""
        while True:
            try:
                return self._left.pop()  # one step for all threads, without a lock
            except IndexError:
                self._left.extend(_nonces())

    def forget(self) -> None:
        """Drop those that are left: a forked process has them too, and none may be used twice."""
        self._left = []


_nonce = Nonces()
os.register_at_fork(after_in_child=_nonce.forget)
ERASED: Final = ErasedKey()


def about_event(stream: str, version: int, topic: str) -> bytes:
    """Return what an event's data is sealed together with: its place in the log."""
    return f"{stream}\n{version}\n{topic}".encode()


def about_snapshot(stream: str, version: int) -> bytes:
    """Return what a snapshot's state is sealed together with."""
    return f"snapshot\n{stream}\n{version}".encode()


class Vault:
    """The master key, and the data keys that were used last, unwrapped.

    A key that was destroyed is remembered as destroyed: whoever fetched it before cannot bring it back.
    """

    def __init__(self, master_key: bytes, most_keys: int = 20_000) -> None:
        if len(master_key) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._master_key = master_key
        self._master = DataKey(master_key)
        self._most_keys = most_keys
        self._keys: OrderedDict[str, DataKey | ErasedKey] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Vault"], tuple[bytes, int]]:
        """Let another process have the master key, and unwrap for itself."""
        return Vault, (self._master_key, self._most_keys)

    def smaller(self, most_keys: int) -> "Vault":
        """Return one with the same master key that remembers fewer keys, none of them yet."""
        return Vault(self._master_key, most_keys)

    def new_key(self, conversation: str) -> tuple[DataKey, bytes]:
        """Make a key for a new conversation; returns it, and what is kept of it. It is not remembered yet."""
        raw = os.urandom(KEY_BYTES)
        return DataKey(raw), self._master.seal(raw, _about_key(conversation))

    def unwrap(self, conversation: str, wrapped: bytes | None) -> DataKey | ErasedKey:
        """Return the key that was kept, None standing for a destroyed one, and remember it.

        Raises `StoredDataError` where it is the key of another conversation or master.
        """
        if wrapped is None:
            return self.keep(conversation, ERASED)
        return self.keep(conversation, DataKey(self._master.open(wrapped, _about_key(conversation))))

    def keep(self, conversation: str, key: DataKey | ErasedKey) -> DataKey | ErasedKey:
        """Remember a key; returns the one to use."""
        with self._lock:
            if self._keys.get(conversation) is ERASED:
                key = ERASED
            self._keys[conversation] = key
            self._keys.move_to_end(conversation)
            while len(self._keys) > self._most_keys:
                self._keys.popitem(last=False)
        return key

    def find(self, conversation: str) -> DataKey | ErasedKey | None:
        """Return the key, if it is remembered."""
        with self._lock:
            key = self._keys.get(conversation)
            if key is not None:
                self._keys.move_to_end(conversation)
        return key

    def is_erased(self, conversation: str) -> bool:
        """Whether the key is remembered as destroyed: asked for every event that a model is shown."""
        return self._keys.get(conversation) is ERASED

    def forget(self, conversation: str) -> None:
        """Forget a key that was destroyed."""
        self.keep(conversation, ERASED)

    def purpose(self, name: str, salt: bytes) -> DataKey:
        """Return a key of its own for a purpose, derived from the master key and a salt."""
        derived = HKDF(SHA256(), KEY_BYTES, salt, name.encode()).derive(self._master_key)
        return DataKey(derived)

    def seal(self, data: bytes, about: bytes) -> bytes:
        """Seal under the master key itself."""
        return self._master.seal(data, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """Open what the master key has sealed. Raises `StoredDataError`."""
        return self._master.open(sealed, about)


def _about_key(conversation: str) -> bytes:
    return f"key of\n{conversation}".encode()
