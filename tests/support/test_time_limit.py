"""A test that hangs fails, shows what was going on, and lets the others run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BEGINNING = """
import _thread
import asyncio
import time

import pytest
import trio
import trio.testing

from tests.support import time_limit

time_limit.GRACE = 0.5
pytestmark = pytest.mark.time_limit(0.5)


def test_before() -> None:
    pass
"""

END = """
@pytest.mark.filterwarnings("error")
def test_after() -> None:
    trio.run(trio.sleep, 0)
"""

HANGING = """
async def wait_for_ever() -> None:
    await trio.Event().wait()


def test_that_waits() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_ever, name="the first waiter")
            nursery.start_soon(wait_for_ever, name="the second waiter")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def block() -> None:
    time.sleep(100)


def test_whose_loop_is_blocked() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever, name="the sleeper")
            await trio.sleep(0)
            block()

    trio.run(main)


async def wait_in_asyncio() -> None:
    await asyncio.Event().wait()


def test_that_waits_in_asyncio() -> None:
    asyncio.run(wait_in_asyncio())


def test_that_shields_itself() -> None:
    async def main() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    trio.run(main)


@pytest.fixture
def fixture_that_hangs():
    time.sleep(100)


def test_whose_fixture_hangs(fixture_that_hangs: None) -> None:
    pass
"""

STUBBORN = """
def test_that_nothing_ends() -> None:
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass
"""


def run(directory: Path, code: str, *options: str) -> str:
    """What pytest says of a file with these tests, and one before them and one after them."""
    (directory / "pytest.ini").write_text("[pytest]\nmarkers =\n  time_limit: seconds\n  long: long\n")
    (directory / "test_it.py").write_text(BEGINNING + code + END)
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.time_limit", "-p", "no:cacheprovider", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(tmp_path_factory.mktemp("hanging"), HANGING)


def test_the_others_run(shown: str) -> None:
    assert "4 failed, 2 passed" in shown
    assert "1 error" in shown


def test_a_test_whose_tasks_wait_for_ever_fails_and_shows_each_of_them(shown: str) -> None:
    told = shown[shown.index("test_that_waits hangs: it has not ended after 0.5 s") :]
    tasks = told[told.index("-- trio tasks:") : told.index("-- threads:")]
    parts = ("the first waiter", "the second waiter", "in wait_for_ever", "await trio.Event().wait()", "in main")
    assert [tasks.count(part) for part in parts] == [1, 1, 2, 2, 1]


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("test_whose_loop_is_blocked", "in block"),
        ("test_whose_loop_is_blocked", "the sleeper"),
        ("test_that_waits_in_asyncio", "await asyncio.Event().wait()"),
        ("test_that_shields_itself", "await trio.sleep_forever()"),
        ("test_whose_fixture_hangs", "in fixture_that_hangs"),
    ],
)
def test_a_test_that_cannot_be_cancelled_fails_all_the_same(shown: str, name: str, where: str) -> None:
    told = shown[shown.index(f"{name} hangs") :]
    assert where in told[: told.index("-- threads:")]


def test_a_test_that_nothing_ends_takes_its_process_along_and_another_runs_the_rest(tmp_path: Path) -> None:
    shown = run(tmp_path, STUBBORN, "-n", "1")
    assert "in test_that_nothing_ends" in shown
    assert "crashed while running 'test_it.py::test_that_nothing_ends'" in shown
    assert "1 failed, 2 passed" in shown
