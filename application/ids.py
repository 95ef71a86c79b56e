"""Ids we mint: time-ordered, so that what is made together lies together in every index."""

import os
import time


def new_id() -> str:
    """Return a new UUID version 7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_call_id() -> str:
    """Return a new tool call id; ours, because models reuse theirs within one conversation."""
    return f"call_{new_id().replace('-', '')}"
