"""One worker process: ``python -m tests.chaos.worker URL WORKER_ID [--without-fence]``.

It works until SIGTERM, which ends it in order. It does not outlive the process that has started it.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal

import trio
from sqlalchemy import Connection, update

from trio_romancy import App, Limits
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.workers import Lease
from trio_romancy.clock import Microseconds

from ..support.probe import be_on_machine, replace_fences
from . import workflows

__all__ = ["workflows"]  # a worker runs what is defined in its process

LEASE = 2.0
IDLE_TIMEOUT = 0.3
SHUTDOWN_TIMEOUT = 10.0
"""Seconds, each."""

READY = "ready"
"""What it prints once it holds a lease."""

_PR_SET_PDEATHSIG = 1


async def run_until_sigterm(app: App) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with app:
            print(READY, flush=True)
            async for _ in signals:
                return


def break_fence() -> None:
    """Let writes through whose lease was ended, to prove that the checker sees what the fence is for."""

    def fence(connection: Connection, lease: Lease, expires_at: Microseconds) -> None:
        row = tables.workers.c
        mine = update(tables.workers).where(row.worker_id == lease.worker_id, row.epoch == lease.epoch)
        connection.execute(mine.values(expires_at=expires_at))

    def fence_batch(connection: Connection, lease: Lease, expires_at: Microseconds, number: int) -> bool:
        fence(connection, lease, expires_at)
        return True

    replace_fences(fence, fence_batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("worker_id")
    parser.add_argument("--without-fence", action="store_true")
    arguments = parser.parse_args()
    parent = os.getppid()
    # A frozen one would not notice that its input has ended. Linux only, as the private servers are.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    be_on_machine(f"the machine of {arguments.worker_id}")
    if arguments.without_fence:
        break_fence()
    app = App(
        arguments.url,
        worker_id=arguments.worker_id,
        lease=LEASE,
        idle_timeout=IDLE_TIMEOUT,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
        limits=Limits(max_recoveries=1_000_000),  # no instance is to blame for so many deaths
        auto_migrate=False,
    )
    trio.run(run_until_sigterm, app)


if __name__ == "__main__":
    main()
