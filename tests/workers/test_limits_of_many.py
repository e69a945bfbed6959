"""Attempts of many processes under one limit, while workers are killed and frozen: a ledger says what ran together.

    TRIO_ROMANCY_LIMITS=5000 pytest --all tests/workers/test_limits_of_many.py

That runs as many attempts, in eight processes, under ``concurrent=7`` and a rate of 50 in a second.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from attrs import define

from trio_romancy import App, Limit, Rate, RetryPolicy, WorkflowContext, activity, current_activity, workflow

from ..support.databases import SHARED_KINDS
from ..support.fork_server import Process, fork_server_for

LONG = int(os.environ.get("TRIO_ROMANCY_LIMITS", "0"))
ATTEMPTS, WORKERS = (LONG, 8) if LONG else (60, 3)
CONCURRENT, RATE, PERIOD = 7, 50, 1.0
LEASE = 2.0
PATIENCE = 60 + ATTEMPTS / 5

pytestmark = [
    pytest.mark.long,
    pytest.mark.real_clock,
    pytest.mark.time_limit(120 + LONG),
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals"),
]

shared = Limit("shared", concurrent=CONCURRENT, rate=Rate(RATE, per=PERIOD))


def note(what: str) -> None:
    """Write a line into the ledger, in one write, so that lines of several processes do not mix."""
    line = f"{what} {time.monotonic():.6f} {os.getpid()} {current_activity().instance_id}\n"
    ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, line.encode())
    os.close(ledger)


@activity(limits=[shared], retry=RetryPolicy.fixed(50, 0.1))
async def work() -> None:
    note("begin")
    try:
        await trio.sleep(random.uniform(0.05, 0.15))
    finally:
        note("end")


@workflow(name="limits_of_many")
async def flow(ctx: WorkflowContext) -> None:
    await work()


async def serve(database: str) -> None:
    async with App(database, lease=LEASE, max_running=500):
        print("serves", flush=True)
        await trio.sleep_forever()


@define
class Span:
    """What the ledger says of one attempt."""

    process: int
    instance_id: str
    begin: float
    end: float | None = None


def read(ledger: Path, stopped: dict[int, list[tuple[float, float]]]) -> list[Span]:
    """Read the ledger. An attempt of a process that was stopped ends then, unless it ends before.

    Args:
      stopped: for each process, when it was stopped, and when it went on.
    """
    spans: list[Span] = []
    open_spans: dict[tuple[int, str], Span] = {}
    for line in ledger.read_text().splitlines():
        what, at, process, instance_id = line.split()
        if what == "begin":
            span = open_spans[int(process), instance_id] = Span(int(process), instance_id, float(at))
            spans.append(span)
        else:
            open_spans.pop((int(process), instance_id)).end = float(at)
    for span in spans:
        for begin, _ in stopped.get(span.process, ()):
            if span.begin <= begin and (span.end is None or span.end > begin):
                span.end = begin
    return spans


def largest_overlap(spans: list[Span]) -> int:
    """Return how many attempts ran at the same time, at most."""
    running = largest = 0
    for _, change in sorted([(span.begin, 1) for span in spans] + [(span.end or float("inf"), -1) for span in spans]):
        running += change
        largest = max(largest, running)
    return largest


def largest_rate(spans: list[Span]) -> int:
    """Return how many attempts began within one period, at most."""
    begins = sorted(span.begin for span in spans)
    first = largest = 0
    for place, begin in enumerate(begins):
        while begins[first] <= begin - PERIOD:
            first += 1
        largest = max(largest, place - first + 1)
    return largest


def longest_gap(spans: list[Span], since: float) -> float:
    """Return the longest time without a begin after the disturbances, while there was work."""
    begins = [since, *sorted(span.begin for span in spans if span.begin > since)]
    return max((after - before for before, after in pairwise(begins)), default=0.0)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "ledger"
    path.touch()
    monkeypatch.setenv("LEDGER", str(path))
    yield path


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_limit_holds_and_loses_no_permit_while_workers_are_killed_and_frozen(
    kind: str, database: str, ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped: dict[int, list[tuple[float, float]]] = {}
    with ExitStack() as stack:

        def start() -> Process:
            started = fork_server_for(database).start(__name__, database, stdout=subprocess.PIPE)
            process = stack.enter_context(started)
            assert process.stdout is not None
            assert process.stdout.readline() == "serves\n"
            return process

        async with App(database, worker=False) as client:
            processes = [await trio.to_thread.run_sync(start) for _ in range(WORKERS)]
            handles = [await client.start(flow) for _ in range(ATTEMPTS)]

            def begun() -> int:
                return ledger.read_text().count("begin")

            async def until_begun(part: float) -> None:
                with trio.fail_after(PATIENCE):
                    while begun() < part * ATTEMPTS:  # noqa: ASYNC110 (other processes do)
                        await trio.sleep(0.05)

            await until_begun(0.2)
            killed = processes.pop()
            killed.kill()
            stopped[killed.pid] = [(time.monotonic(), float("inf"))]
            processes.append(await trio.to_thread.run_sync(start))
            await until_begun(0.4)
            frozen = processes[0]
            frozen.send_signal(signal.SIGSTOP)
            at = time.monotonic()
            await trio.sleep(2 * LEASE)
            frozen.send_signal(signal.SIGCONT)
            stopped[frozen.pid] = [(at, time.monotonic())]
            last = time.monotonic()
            with trio.fail_after(PATIENCE):
                for handle in handles:
                    await handle.result()
            (info,) = await client.limits()
    spans = read(ledger, stopped)
    overlap, rate, gap = largest_overlap(spans), largest_rate(spans), longest_gap(spans, last)
    with capsys.disabled():
        if LONG:
            print(f"\n{kind}: {len(spans)} attempts, {overlap} at once, {rate} in {PERIOD} s, no begin for {gap:.1f} s")
    assert {span.instance_id for span in spans} == {handle.instance_id for handle in handles}
    assert overlap <= CONCURRENT
    assert rate <= RATE
    assert (info.taken, info.waiting) == (0, 0)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])
