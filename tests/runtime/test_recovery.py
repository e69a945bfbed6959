"""Real processes, killed with a real signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support.databases import SHARED_KINDS, query
from ..support.fork_server import Process, fork_server_for

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
    pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True),
]


def run(directory: Path, database: str, what: str, worker_id: str) -> Process:
    module = "tests.runtime.recovery_worker"
    arguments = what, worker_id, database
    return fork_server_for(database).start(module, *arguments, stdout=subprocess.PIPE, directory=directory)


def read_line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def effects(directory: Path) -> list[str]:
    log = directory / "effects.log"
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize("worker_id", ["worker-1", ""])
def test_after_kill_9_the_next_process_goes_on_at_once_and_repeats_nothing_recorded(
    tmp_path: Path, database: str, worker_id: str
) -> None:
    first = run(tmp_path, database, "order", worker_id)
    assert read_line(first) == "shipping"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    begun = time.monotonic()
    second = run(tmp_path, database, "finish-order", worker_id)
    assert (read_line(second), read_line(second)) == ("shipping", "TRACK-1")
    # The lease is 60 s: nobody waited for it.
    assert time.monotonic() - begun < 40
    assert second.wait(60) == 0
    assert effects(tmp_path) == ["reserve", "pay", "ship", "ship"]
    assert query(database, "SELECT count(*) FROM romancy_history WHERE kind = 'activity_completed'") == [(3,)]


def test_killed_in_the_middle_of_a_rollback_it_goes_on_with_the_rollback(tmp_path: Path, database: str) -> None:
    first = run(tmp_path, database, "rollback", "w")
    assert read_line(first) == "undoing one"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = run(tmp_path, database, "finish-rollback", "w")
    assert read_line(second) == "undoing one"
    assert read_line(second) == "failed"
    assert second.wait(60) == 0
    assert effects(tmp_path) == ["do-one", "do-two", "undo-two", "undo-one", "undo-one"]


def test_an_instance_that_takes_its_process_down_is_parked_and_its_neighbours_recover(
    tmp_path: Path, database: str
) -> None:
    deaths = 0
    while True:
        with run(tmp_path, database, "poison", "w") as process:
            code = process.wait(60)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        deaths += 1
        assert deaths < 20
    statuses: dict[str, str] = dict(query(database, "SELECT instance_id, status FROM romancy_instances"))
    assert statuses.pop("poison") == "stuck"
    assert set(statuses.values()) == {"completed"}
    assert len(statuses) == 6
    # max_recoveries=3: the first run, three recoveries, and no more.
    assert effects(tmp_path).count("poison") == 4
    assert deaths == 4


def test_many_processes_opening_one_database_at_once_all_work(tmp_path: Path, database: str) -> None:
    processes = [run(tmp_path, database, "order-alone", f"w{number}") for number in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.read().split()[-1] == "TRACK-1"
        assert process.wait(60) == 0
    assert query(database, "SELECT count(*), status FROM romancy_instances GROUP BY status") == [(6, "completed")]
