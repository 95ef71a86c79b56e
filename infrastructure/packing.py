"""What is stored is packed before it is sealed, where that is worth it: afterwards nothing can pack it."""

import zlib
from typing import Final

# What is packed begins with this byte, which no JSON begins with; a raw deflate stream follows.
PACKED: Final = b"\x02"
# Packing less takes longer than it is worth: the row's columns and indexes are the bigger part of it.
# Packing more would hold up everything else for more than a few milliseconds.
WORTHWHILE: Final = range(512, 256 * 1024)
# Small values are the rule: a window and tables of a few KiB are made in microseconds, those of the
# defaults take ten times as long. Any window can be read.
_LEVEL, _WINDOW, _MEMORY = 1, -13, 6
_ANY_WINDOW: Final = -15


def packed(data: bytes) -> bytes:
    """Return the data in fewer bytes, or as it is where that is not worth it."""
    is_taken_for_packed = data.startswith(PACKED)
    if len(data) not in WORTHWHILE and not is_taken_for_packed:
        return data
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY)
    small = PACKED + packer.compress(data) + packer.flush()
    return small if len(small) < len(data) or is_taken_for_packed else data


def unpacked(data: bytes) -> bytes:
    """Return what was packed; what was not is returned as it is. Raises `zlib.error`."""
    return zlib.decompress(memoryview(data)[1:], _ANY_WINDOW) if data.startswith(PACKED) else data
