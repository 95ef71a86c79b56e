"""A rebuild makes way for whoever is served."""

import os
import pickle
import subprocess
import sys

from infrastructure.projections.connecting import connect
from infrastructure.projections.yielding import Courtesy, step_back
from tests.projecting import wait_until


def test_another_process_is_made_to_go_behind_and_one_that_is_gone_is_no_trouble() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        before = os.getpriority(os.PRIO_PROCESS, process.pid)
        step_back(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == max(before, 10)
        process.kill()
    step_back(process.pid)


def test_what_one_process_has_seen_of_others_lets_the_next_make_way_at_its_first_look(
    database_url: str,
) -> None:
    with connect(database_url, "test") as connection, connect(database_url, "test") as others:
        first = Courtesy()
        assert not first.look(connection)
        for _ in range(2_000):
            others.execute("SELECT 1")
        others.execute("SELECT pg_stat_force_next_flush()")
        others.execute("SELECT 1")
        given = pickle.loads(pickle.dumps(first))
        wait_until(lambda: given.look(connection))
        assert not Courtesy().look(connection)
