"""What is packed comes back as it was, today and in ten years, and packing never makes more of it."""

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infrastructure.packing import PACKED, WORTHWHILE, packed, unpacked

# One line, as an earlier version has stored it.
LINE = b'{"content":"' + b"where is my suitcase? " * 50 + b'"}'
STORED = PACKED + bytes.fromhex(
    "ab564acecf2b49cd2b51b2522acf482d4a55c82c56c8ad54282ecd2c494e2c4eb55718151d0d87d1f4309a2f482b09946a01"
)


@given(st.binary(max_size=5000) | st.binary(min_size=1, max_size=40).map(lambda some: some * 50))
@example(PACKED)
@example(PACKED * 1000)
def test_what_is_packed_comes_back_as_it_was(data: bytes) -> None:
    assert unpacked(packed(data)) == data


@given(st.binary(min_size=WORTHWHILE.start, max_size=5000))
def test_packing_never_makes_more_of_it(data: bytes) -> None:
    assert len(packed(data)) <= len(data) or data.startswith(PACKED)


def test_what_repeats_itself_takes_far_fewer_bytes() -> None:
    assert len(packed(LINE)) < len(LINE) / 10


@pytest.mark.parametrize("length", [WORTHWHILE.start - 1, WORTHWHILE.stop])
def test_what_is_not_worth_it_stays_as_it_is(length: int) -> None:
    assert packed(b"a" * length) == b"a" * length


def test_what_an_earlier_version_has_packed_is_read() -> None:
    assert unpacked(STORED) == LINE


def test_what_was_packed_elsewhere_with_any_window_is_read() -> None:
    said = b"".join(b"%d" % number for number in range(30_000))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    assert unpacked(PACKED + packer.compress(said) + packer.flush()) == said
