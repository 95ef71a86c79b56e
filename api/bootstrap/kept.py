"""Files that an auditor has kept elsewhere: signed checkpoints, and the public keys for them.

A file that is none of these is a wrong option, and says nothing about the log.
"""

from collections.abc import Iterable
from pathlib import Path

from api.settings import SettingsError
from infrastructure.audit.notes import NoteError, notes_in, parsed
from infrastructure.audit.signing import parsed_verifiers


def checkpoints_in(paths: Iterable[Path]) -> dict[str, str]:
    """Return the files' contents by their names. Raises `SettingsError` where one holds no checkpoint."""
    return {str(path): _checkpoints(path) for path in paths}


def verifiers_in(path: Path) -> str:
    """Return the content of a list of public keys. Raises `SettingsError` where it is none."""
    content = _text(path)
    try:
        found = parsed_verifiers(content)
    except NoteError as error:
        raise SettingsError(f"{path} is no list of public keys: {error.details['reason']}.") from None
    if not found:
        raise SettingsError(f"{path} has no public key in it.")
    return content


def largest_in(content: str) -> int:
    """Return how many events the largest checkpoint in a text covers; 0 where there is none."""
    try:
        return max(_sizes(content), default=0)
    except NoteError:
        return 0


def _sizes(content: str) -> list[int]:
    return [parsed(note).checkpoint().size for note in notes_in(content)]


def _checkpoints(path: Path) -> str:
    content = _text(path)
    try:
        sizes = _sizes(content)
    except NoteError as error:
        raise SettingsError(f"{path} is no file of checkpoints: {error.details['reason']}.") from None
    if not sizes:
        raise SettingsError(f"{path} has no checkpoint in it.")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} cannot be read: it is no text.") from None
