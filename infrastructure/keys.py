"""Secret keys of 32 bytes: given by a setting, or kept in files that nobody else can read.

A key file is one line: the 32 bytes in base64. It is made once, whole or not at all, in a folder that is ours
alone. A key that others can read is refused: it has to be taken for known.
"""

import base64
import binascii
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from domain.errors import MinutebookError

KEY_BYTES: Final = 32
_MAX_FILE: Final = 4096  # bytes; a key file has 45


class KeyUnusableError(MinutebookError):
    """The key cannot be used: {reason}."""

    code = "key_unusable"


class KeyExposedError(KeyUnusableError):
    """The key cannot be used: others can read the file {path} and may know it; chmod 600 it."""


def given_key(value: str, name: str) -> bytes:
    """Return the key that a setting gives: 32 bytes in base64, or the path of a key file.

    `name` is the setting's, for the sentence of the error. Raises `KeyUnusableError`.
    """
    key = _decoded(value)
    if key is not None:
        return key
    path = Path(value).expanduser()
    if _looks_like_a_key(value) and not path.exists():
        raise KeyUnusableError(reason=f"{name} is not {KEY_BYTES} bytes in base64, and no file")
    return read_key(path)


def read_key(path: Path) -> bytes:
    """Return the key in this file.

    Raises `KeyUnusableError` where it is missing, damaged or not ours alone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyUnusableError(reason=f"the file {path} cannot be read ({error.strerror})") from None
    try:
        _refuse_readable(path, os.fstat(descriptor))
        key = _decoded(os.read(descriptor, _MAX_FILE).decode("latin-1"))
    finally:
        os.close(descriptor)
    if key is None:
        raise KeyUnusableError(reason=f"the file {path} is not {KEY_BYTES} bytes in base64")
    return key


def create_or_read_key(path: Path) -> bytes:
    """Return the key in this file, which is made with 32 random bytes where it is missing.

    Of several that make it at once, one wins and all return the same key. Raises `KeyUnusableError`.
    """
    if not path.exists():
        write_key(path, secrets.token_bytes(KEY_BYTES))
    return read_key(path)


def write_key(path: Path, key: bytes, *, replace: bool = False) -> None:
    """Write a key file, on the disk when this returns; one that is there stays unless told to `replace` it.

    Raises `KeyUnusableError` where the folder cannot be written.
    """
    try:
        make_key_folder(path.parent)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            _write(draft, base64.b64encode(key) + b"\n")
            _place(draft, path, replace=replace)
        finally:
            draft.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise KeyUnusableError(reason=f"the file {path} cannot be written ({error.strerror})") from None


def make_key_folder(folder: Path) -> None:
    """Make the folder, for us alone, where it is missing. Raises `OSError`, and `KeyUnusableError`.

    A folder in which others can write is refused: they could put a key of theirs there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyUnusableError(reason=f"others can write in the folder {folder}; chmod 700 it")


def _write(draft: Path, content: bytes) -> None:
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _place(draft: Path, path: Path, *, replace: bool) -> None:
    if replace:
        draft.replace(path)
        return
    with suppress(FileExistsError):  # another was quicker: theirs is the key
        os.link(draft, path)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_readable(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise KeyUnusableError(reason=f"{path} is no file")
    if found.st_mode & 0o077:
        raise KeyExposedError(path=path)


def _decoded(text: str) -> bytes | None:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


def _looks_like_a_key(text: str) -> bool:
    return "/" not in text[:1] and "." not in text and len(text) > KEY_BYTES
