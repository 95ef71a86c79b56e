"""The watch that fails tests which block their event loop, watched itself."""

import asyncio
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.loop_watch import LoopWatch

REPOSITORY = Path(__file__).parents[2]
WATCHED = """
import asyncio
import time
from tests.loop_watch import LoopWatch

async def busy():
    with LoopWatch(asyncio.get_running_loop(), limit_s=0.3) as watch:
        print("watching", flush=True)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            for _ in range(1_000_000):  # always in the middle of something
                pass
            await asyncio.sleep(0)
    print(watch.blocks)

asyncio.run(busy())
"""


def hold_the_loop_up(seconds: float) -> None:
    time.sleep(seconds)


async def watched(blocked_s: float, awaited_s: float) -> list[str]:
    with LoopWatch(asyncio.get_running_loop(), limit_s=0.1) as watch:
        await asyncio.sleep(0.05)
        hold_the_loop_up(blocked_s)
        await asyncio.sleep(awaited_s)
    return watch.blocks


def test_a_blocked_loop_is_noted_with_what_blocked_it() -> None:
    (block,) = asyncio.run(watched(blocked_s=0.4, awaited_s=0.1))
    assert "hold_the_loop_up" in block


def test_a_loop_that_only_waits_is_not_blocked() -> None:
    assert asyncio.run(watched(blocked_s=0.0, awaited_s=0.4)) == []


def test_a_loop_that_does_not_run_is_not_blocked() -> None:
    with asyncio.Runner() as runner, LoopWatch(runner.get_loop(), limit_s=0.1) as watch:
        runner.run(asyncio.sleep(0.05))
        hold_the_loop_up(0.3)
        runner.run(asyncio.sleep(0.05))
    assert watch.blocks == []


def test_a_machine_that_stands_still_blocks_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        for _ in range(3):
            time.sleep(0.1)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.6)
            process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "[]\n"


def test_an_async_test_that_blocks_fails_and_one_that_may_does_not(pytester: pytest.Pytester) -> None:
    pytester.makeini(
        f"[pytest]\nasyncio_mode = auto\npythonpath = {REPOSITORY}\nmarkers = may_block(why): allowed to"
    )
    pytester.makeconftest((REPOSITORY / "tests" / "conftest.py").read_text())
    pytester.makepyfile(
        """
        import time
        import pytest

        async def test_it_blocks():
            time.sleep(0.6)

        @pytest.mark.may_block("to see that it may")
        async def test_it_may_block():
            time.sleep(0.6)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*event loop was blocked*"])


@pytest.mark.may_block("this one blocks on purpose")
async def test_a_wait_in_a_selector_inside_a_task_is_a_block() -> None:
    with LoopWatch(asyncio.get_running_loop(), limit_s=0.05) as watch, selectors.DefaultSelector() as waiting:
        await asyncio.sleep(0.1)
        waiting.select(0.8)
        await asyncio.sleep(0.1)
        assert len(watch.take_blocks()) == 1


def test_what_is_computed_on_a_crowded_machine_counts_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed() -> list[str]:
        async def busy() -> list[str]:
            with LoopWatch(asyncio.get_running_loop(), limit_s=0.2) as watch:
                await asyncio.sleep(0.05)
                until = time.thread_time() + 0.5
                while time.thread_time() < until:
                    pass
                await asyncio.sleep(0.1)
            return watch.blocks

        return asyncio.run(busy())

    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert len(computed()) == 1
    monkeypatch.setattr("os.getloadavg", lambda: (10.0 * (os.cpu_count() or 1), 0.0, 0.0))
    assert computed() == []
