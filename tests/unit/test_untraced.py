"""Tests that are marked `no_cover` are not traced: that would double their time."""

import sys
import threading

import pytest


@pytest.mark.no_cover
def test_a_test_that_says_so_is_not_traced() -> None:
    assert sys.gettrace() is None
    assert threading.gettrace() is None
