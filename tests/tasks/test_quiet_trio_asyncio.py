"""Importing the package, and opening an app, change nothing for the asyncio code of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio
import trio.testing

from trio_romancy._tasks.quiet_trio_asyncio import open_loop

from ..support.databases import SHARED_KINDS

PROGRAM = """
import asyncio, sys, threading, warnings
warnings.simplefilter("ignore")
{first}

def seen():
    made = asyncio.new_event_loop()
    made.close()
    names = {{(m.__name__, n): id(v) for m in (asyncio, asyncio.events, asyncio.tasks) for n, v in vars(m).items()}}
    return type(made), type(asyncio.run(running())), type(asyncio.get_event_loop_policy()), names

async def running():
    return asyncio.get_running_loop()

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(seen()))
    thread.start()
    thread.join()
    return found[0]

def differ(one, other):
    return one[:3] != other[:3] or any(other[3].get(name) != value for name, value in one[3].items())

before = seen()
import trio
import trio_romancy
print("after the import", differ(before, seen()), "trio_asyncio" in sys.modules)

@trio_romancy.workflow
async def flow(ctx: trio_romancy.WorkflowContext) -> int:
    return 1

async def main():
    async with trio_romancy.App(sys.argv[1]) as app:
        await (await app.start(flow)).result()
        found = await trio.to_thread.run_sync(in_thread)
        print("inside", differ(before, found), "trio_asyncio" in sys.modules)
        {more}

trio.run(main)
print("at the end", differ(before, seen()))
"""


def says(url: str, first: str = "", more: str = "") -> list[str]:
    program = PROGRAM.format(first=first, more=more)
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
def test_asyncio_is_as_before(kind: str, database: str) -> None:
    is_server = kind != "file"
    assert says(database) == ["after the import False False", f"inside False {is_server}", "at the end False"]


CALL = "print(await trio_asyncio.aio_as_trio(asyncio.sleep)(0, 'asyncio'))"


def test_a_program_that_has_imported_trio_asyncio_keeps_it_and_has_a_loop_on_sqlite() -> None:
    after, inside, called, end = says(":memory:", "import trio_asyncio", CALL)
    assert (after, inside) == ("after the import False True", "inside False True")
    assert (called, end) == ("asyncio", "at the end False")


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_program_that_imports_trio_asyncio_later_can_call_asyncio_code(kind: str, database: str) -> None:
    *_, called, end = says(database, more=f"import trio_asyncio; {CALL}")
    assert (called, end) == ("asyncio", "at the end False")


class CountTurns(trio.abc.Instrument):
    """Counts how often trio has looked for what has happened outside."""

    turns = 0

    def after_io_wait(self, _: float) -> None:
        self.turns += 1


async def test_callbacks_that_are_ready_run_in_one_turn_and_in_order() -> None:
    counter = CountTurns()
    trio.lowlevel.add_instrument(counter)
    ran: list[tuple[str, int]] = []

    def run(name: str) -> None:
        ran.append((name, counter.turns))

    async with open_loop() as loop:
        loop.call_soon(run, "first")
        loop.call_soon(lambda: loop.call_soon(run, "added by the second"))
        loop.call_soon(run, "third")
        await trio.testing.wait_all_tasks_blocked()
    turn_of = dict(ran)
    assert turn_of["first"] == turn_of["third"] < turn_of["added by the second"]
    assert list(turn_of) == ["first", "third", "added by the second"]


async def test_callbacks_without_an_end_leave_the_trio_tasks_their_turns() -> None:
    async with open_loop() as loop:

        def again() -> None:
            if not has_ended:
                loop.call_soon(again)

        has_ended = False
        again()
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        has_ended = True


@pytest.mark.real_clock
async def test_a_timer_is_not_late_for_callbacks_without_an_end() -> None:
    async with open_loop() as loop:

        def again() -> None:
            if not fired.is_set():
                loop.call_soon(again)

        fired = trio.Event()
        loop.call_later(0.001, fired.set)
        again()
        with trio.fail_after(1000):
            await fired.wait()
