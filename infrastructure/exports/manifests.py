"""The manifest of an export: written beside it, read back, and compared with it."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from application.exporting import (
    FORMATS,
    MANIFEST,
    MANIFEST_VERSION,
    Checked,
    Chunk,
    Manifest,
    UncheckableError,
)

_PIECE: Final = 1024 * 1024
OnBytes = Callable[[int, int], None]  # bytes read, of how many


def path_of(export: Path) -> Path:
    """Return where the manifest of an export is."""
    return export.with_name(f"{export.name}.manifest.json")


def write(manifest: Manifest, path: Path) -> None:
    """Write a manifest whole or not at all."""
    partial = path.with_name(f"{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest.as_json(), indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read(path: Path) -> Manifest:
    """Read a manifest. Raises `UncheckableError` where it is none, or contradicts itself."""
    try:
        manifest = _manifest(json.loads(path.read_bytes()))
        reason = _contradiction(manifest)
    except OSError as error:
        raise UncheckableError(reason=f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UncheckableError(
            reason=f"{path} is no manifest of an export that is known here (it is called FILE.manifest.json)"
        ) from None
    if reason:
        raise UncheckableError(reason=f"{path} contradicts itself: {reason}")
    return manifest


def _manifest(said: dict[str, Any]) -> Manifest:
    if (said["manifest"], said["manifest_version"]) != (MANIFEST, MANIFEST_VERSION):
        raise ValueError
    chunks = [Chunk(**chunk) for chunk in said["chunks"]]
    known = {name: said[name] for name in Manifest.__dataclass_fields__ if name != "checkpoint"}
    return Manifest(**known | {"chunks": chunks, "checkpoint": said.get("checkpoint")})


def _contradiction(manifest: Manifest) -> str | None:
    chunks = manifest.chunks
    ends = [0, *(chunk.end for chunk in chunks)]
    nexts = [manifest.first, *(chunk.last + 1 for chunk in chunks)]
    whole = manifest.conversation is None and not manifest.types
    if manifest.format not in FORMATS or Path(manifest.file).name != manifest.file:
        return "no such format or file"
    if sum(chunk.count for chunk in chunks) != manifest.count:
        return "its chunks do not add up to its count"
    if ends != sorted(ends) or ends[-1] != manifest.bytes:
        return "its chunks do not add up to its bytes"
    if [chunk.first for chunk in chunks] != nexts[:-1] or nexts[-1] != manifest.last + 1:
        return "its chunks do not cover its range"
    if whole and any(chunk.count != chunk.last - chunk.first + 1 for chunk in chunks):
        return "its chunks leave out positions"
    return None


def check(path: Path, on_bytes: OnBytes = lambda _, __: None) -> Checked:
    """Compare an export with its manifest, by nothing but the two files.

    Names the first chunk whose bytes are not those that were written. Raises `UncheckableError` where one of
    the files cannot be read.
    """
    manifest = read(path)
    fine = Checked(str(path), manifest.count, manifest.first, manifest.last, manifest.bytes)
    export = path.with_name(manifest.file)
    try:
        with export.open("rb") as file:
            return _checked(fine, manifest, file, on_bytes)
    except OSError as error:
        raise UncheckableError(reason=f"{export} cannot be read ({error.strerror})") from None


def _checked(fine: Checked, manifest: Manifest, file: BinaryIO, on_bytes: OnBytes) -> Checked:
    whole, start = sha256(), 0
    for number, chunk in enumerate(manifest.chunks, 1):
        digest, length = sha256(), 0
        for piece in pieces(file, chunk.end - start):
            digest.update(piece)
            whole.update(piece)
            length += len(piece)
            on_bytes(start + length, manifest.bytes)
        if length < chunk.end - start:
            return _bad(fine, number, chunk, "the file ends within it")
        if digest.hexdigest() != chunk.sha256:
            return _bad(fine, number, chunk, "its bytes are not those that were exported")
        start = chunk.end
    if file.read(1):
        return replace(fine, reason="the file goes on behind what was exported")
    if whole.hexdigest() != manifest.sha256:
        return replace(fine, reason="the digest of the whole file is not that of its chunks")
    return fine


def _bad(fine: Checked, number: int, chunk: Chunk, reason: str) -> Checked:
    return replace(fine, chunk=number, first=chunk.first, last=chunk.last, reason=reason)


def pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Read so many bytes, or as many as there are, in pieces."""
    while size and (piece := file.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece
