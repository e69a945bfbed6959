"""One worker process: ``python -m tests.chaos.worker URL WORKER_ID NOTES [OPTIONS]``.

It works until SIGTERM, which ends it in order. It does not outlive the process that has started it. On its standard
input it takes the commands of :mod:`.commands`. With ``--forked`` the worker is a child of this process, forked when
its app had been made; both are in one process group, to which signals are sent.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

import trio
from sqlalchemy import Connection, update

from trio_romancy import App, Limits, OutboxSettings
from trio_romancy._storage.dialects import limits
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.workers import Lease
from trio_romancy.clock import Microseconds

from ..support.probe import be_on_machine, hasten_relayers, replace_fences
from . import harmful, versions, workflows
from .commands import TrueTimeFormatter, obey_commands, set_clock
from .notes import write_notes

__all__ = ["harmful", "workflows"]  # a worker runs what is defined in its process

LEASE = 2.0
IDLE_TIMEOUT = 0.3
SHUTDOWN_TIMEOUT = 10.0
"""Seconds, each."""

CLAIM_TIME = 4.0
"""Seconds after which others post the events that a relayer has claimed and not posted."""

LOCK_TIMEOUT = 1
"""Seconds that a statement waits for a lock, and that a transaction may be idle: that of a worker that stands still
keeps its locks for as long. A batch that waits has locked the row of its lease, so this is half of the lease, as are
the 5 seconds of the library of its 10."""

MAX_RECOVERIES = 5
"""Deaths after which only an instance that causes them itself is parked: one that does not makes progress before."""

READY = "ready"
"""What it prints once it holds a lease."""

_PR_SET_PDEATHSIG = 1


async def run_until_sigterm(app: App) -> None:
    obey_commands()
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
    parser.add_argument("notes", type=Path)
    parser.add_argument("--broker", metavar="URL")
    parser.add_argument("--version", type=int, default=versions.NEW)
    parser.add_argument("--forked", action="store_true")
    parser.add_argument("--clock-ahead", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--without-fence", action="store_true")
    arguments = parser.parse_args()
    end_with_parent(os.getppid())
    log = logging.StreamHandler()
    log.setFormatter(TrueTimeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    hasten_relayers(CLAIM_TIME)
    limits.LOCK_TIMEOUT = limits.IDLE_TIMEOUT = LOCK_TIMEOUT
    be_on_machine(f"the machine of {arguments.worker_id}")
    if arguments.without_fence:
        break_fence()
    if arguments.version == versions.OLD:
        versions.define_old()
    else:
        versions.define_new()
    app = App(
        arguments.url,
        worker_id=arguments.worker_id,
        lease=LEASE,
        idle_timeout=IDLE_TIMEOUT,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
        limits=Limits(max_recoveries=MAX_RECOVERIES),
        broker_url=arguments.broker,
        outbox=OutboxSettings(max_attempts=0),
        auto_migrate=False,
    )
    if arguments.forked:
        go_on_in_child()
    set_clock(arguments.clock_ahead)
    write_notes(arguments.notes, arguments.worker_id)
    trio.run(run_until_sigterm, app)


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies. A frozen one would not notice that its input has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # Linux only, as the private servers are
    if os.getppid() != parent:
        sys.exit(1)


def go_on_in_child() -> None:
    """Fork the process. Returns in the child; the parent ends when it does, and as it does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getpid()
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent(parent)
        return
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
