"""The inside of a running app, for tests: the only module that knows how the runtime is built.

:func:`probe` gives what tests look at and what they do to an app. The functions after it replace parts of the runtime.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import attrs
import pytest
from attrs import frozen
from sqlalchemy import Connection

from trio_romancy import App
from trio_romancy import app as app_module
from trio_romancy._client.engine import Engine
from trio_romancy._runtime.actor.actor import Actor
from trio_romancy._runtime.run import sequencer, session_commit
from trio_romancy._runtime.worker import claimer, heartbeat, lease
from trio_romancy._runtime.worker import supervisor as supervisor_module
from trio_romancy._runtime.worker import worker as worker_module
from trio_romancy._runtime.worker.supervisor import Supervisor
from trio_romancy._runtime.worker.worker import Worker
from trio_romancy._settings import RelaySettings
from trio_romancy._storage.database import Database
from trio_romancy._storage.journal import journal as journal_module
from trio_romancy._storage.journal import transaction
from trio_romancy._storage.journal.batch import Batch
from trio_romancy._storage.journal.journal import Journal
from trio_romancy._storage.sql import workers
from trio_romancy._storage.sql.workers import this_process
from trio_romancy.clock import Clock, Microseconds

P = ParamSpec("P")
R = TypeVar("R")


@frozen
class Probe:
    """The parts of one app inside its block. Each is looked up when it is asked for: a worker may join again."""

    _app: App

    @property
    def engine(self) -> Engine:
        engine = self._app._engine
        assert engine is not None, "the app is not open"
        return engine

    @property
    def database(self) -> Database:
        return self.engine.database

    @property
    def clock(self) -> Clock:
        return self.engine.clock

    @property
    def worker(self) -> Worker:
        worker = self.engine.worker
        assert worker is not None, "the app is a client"
        return worker

    @property
    def supervisor(self) -> Supervisor:
        supervisor = self.worker._supervisor
        assert supervisor is not None, "the worker holds no lease"
        return supervisor

    @property
    def journal(self) -> Journal:
        return self.supervisor.journal

    async def read(self, fn: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn(connection, ...)`` to read from the app's database."""
        return await self.database.read(fn, *args, **kwargs)

    async def write(self, fn: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn(connection, ...)`` in a transaction of its own, as another process would."""
        return await self.database.run(fn, *args, **kwargs)

    # -- instances in memory ---------------------------------------------------------------------------------------

    @property
    def actors(self) -> list[Actor]:
        """The actors in memory, except those whose journal is being loaded."""
        return [actor for actor in self.supervisor._actors.values() if actor is not None]

    def actor(self, instance_id: str) -> Actor:
        """The actor of an instance in memory."""
        actor = self.supervisor._actors[instance_id]
        assert actor is not None, "its journal is being loaded"
        return actor

    @property
    def residents(self) -> list[str]:
        """Ids of the instances in memory."""
        return list(self.supervisor._actors)

    @property
    def tasks(self) -> int:
        """Number of tasks beside each other under the supervisor: actors, free tasks, and its own."""
        nursery = self.supervisor._nursery
        assert nursery is not None
        return len(nursery.child_tasks)

    @property
    def free_tasks(self) -> int:
        """Number of tasks that wait for an instance to run."""
        return len(self.supervisor._free_tasks)

    @property
    def alarms(self) -> int:
        """Number of alarms that are set."""
        return len(self.supervisor._alarms._rings)

    @property
    def kept_batches(self) -> list[Batch]:
        """What instances in memory still hold of the batches that their last entries were written in."""
        batches = [actor.instance_run.writer.batch for actor in self.actors]
        return [batch for batch in batches if batch is not None]

    # -- what can happen to it -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Tell the worker to end: activities go on to their ends, everything is given back."""
        self.worker.stop()

    def abandon(self) -> None:
        """Drop everything as if the process had died, and join again."""
        self.worker.abandon()

    def abandon_actors(self) -> None:
        """Drop every actor as if the lease had been lost."""
        self.supervisor.abandon_all()

    def drain_actors(self) -> None:
        """Have instances begin nothing more, and be released, as when the worker ends."""
        self.supervisor.is_draining = True

    def crash_actors(self, error: Exception | None = None) -> None:
        """Make every actor fail, by default as if the runtime had a bug."""
        self.worker.crash_actors(error or RuntimeError("a bug in the runtime"))

    def release_idle(self, count: int = 1) -> None:
        """Give back as many instances that only wait, as if they had waited for long."""
        self.supervisor.passivate_idle(count)

    def release(self, instance_id: str, status: Any) -> None:
        """Give an instance back under that status, whatever it does."""
        self.actor(instance_id).instance_run.release(status)

    def become_due(self) -> None:
        """Tell the worker that something is due."""
        self.worker.notify_due()

    def wake_at(self, time: Microseconds) -> None:
        """Tell the worker when something will be due."""
        self.worker._claimer.notify_wake(time)

    def wake_relay(self) -> None:
        """Tell the relay that there is something to send."""
        self.engine.notify_relay()

    def poll_at(self, idle_since: Microseconds) -> Microseconds | None:
        """When the worker looks next for what other processes have made due, after being idle for that long."""
        return self.worker._claimer._poll_at(idle_since)

    def lose_lease_unnoticed(self, patch: pytest.MonkeyPatch) -> None:
        """Leave the worker without a lease, while everything goes on."""
        patch.setattr(self.worker, "_supervisor", None)

    def before_each_commit(self, wait: Callable[[Batch], Awaitable[None]], patch: pytest.MonkeyPatch) -> None:
        """Have it awaited with each batch, before that is committed."""
        journal = self.journal
        commit = journal._commit

        async def wait_and_commit(batch: Batch) -> None:
            await wait(batch)
            await commit(batch)

        patch.setattr(journal, "_commit", wait_and_commit)

    @property
    def has_hooks(self) -> bool:
        """Whether the worker tells hooks of committed batches."""
        return self.worker._dispatcher is not None


def probe(app: App) -> Probe:
    """The inside of a running app."""
    return Probe(app)


# -- what tests replace ------------------------------------------------------------------------------------------------


def limit_free_tasks(most: int, patch: pytest.MonkeyPatch) -> None:
    """Let no more tasks than that wait for an instance to run."""
    patch.setattr(supervisor_module, "_MOST_FREE_TASKS", most)


def poll_at_most_every(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """Let workers look that seldom for what other processes have made due."""
    patch.setattr(claimer, "_LONGEST_POLL", seconds)


def replace_next_wake(fn: Callable[..., int | None], patch: pytest.MonkeyPatch) -> None:
    """Have workers ask ``fn`` when something will be due, instead of :func:`wake_ups.next_wake`."""
    patch.setattr(claimer, "next_wake", fn)


def replace_join(fn: Callable[..., Any], patch: pytest.MonkeyPatch) -> None:
    """Have workers call ``fn`` to take their lease, instead of :func:`workers.join`."""
    patch.setattr(lease, "join", fn)


def replace_leave(fn: Callable[..., Any], patch: pytest.MonkeyPatch) -> None:
    """Have workers call ``fn`` to give their lease back, instead of :func:`workers.leave`."""
    patch.setattr(worker_module, "leave", fn)


def appear_dead(patch: pytest.MonkeyPatch) -> None:
    """Have the processes of workers that are opened meanwhile look to others as if they had ended."""
    patch.setattr(worker_module, "this_process", lambda: attrs.evolve(this_process(), started="long ago"))


def wrap_session_fence(wrap: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> None:
    """Wrap what checks the lease in the transactions of activities."""
    _wrap(session_commit, "fence", wrap, patch)


def wrap_batch_fence(wrap: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> None:
    """Wrap what checks the lease in the batches of the journal."""
    _wrap(transaction, "fence_batch", wrap, patch)


def wrap_single_statement(wrap: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> None:
    """Wrap what writes a whole batch in one statement."""
    _wrap(transaction, "write_at_once", wrap, patch)


def write_several_statements(patch: pytest.MonkeyPatch) -> None:
    """Have no batch written in one statement, which leaves no locks when its client is gone."""
    patch.setattr(Batch, "is_plain", False)


def replace_fences(fence: Callable[..., None], fence_batch: Callable[..., bool]) -> None:
    """Have leases checked by these functions everywhere, until the process ends."""
    write_several_statements(pytest.MonkeyPatch())  # one statement has its own fence
    for module in (workers, session_commit, transaction):
        for name, replacement in (("fence", fence), ("fence_batch", fence_batch)):
            if hasattr(module, name):
                setattr(module, name, replacement)
    setattr(heartbeat, "beat", lambda *_: True)  # noqa: B010


def be_on_machine(name: str) -> None:
    """Have this process pass for one on a machine of that name, until it ends: others do not see whether it lives."""
    workers._host = lambda: name  # type: ignore[assignment]


def hasten_relayers(claim_time: float) -> None:
    """Have apps that are made from now on, until the process ends, wait less for brokers and for dead relayers."""
    hasty = partial(RelaySettings, claim_time=claim_time, timeout=claim_time / 2, first_delay=0.1, longest_delay=1.0)
    setattr(app_module, "RelaySettings", hasty)  # noqa: B010


def before_each_rest(call: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Have it called whenever an instance looks whether all its tasks rest."""
    rest = sequencer.Sequencer._rest

    async def call_and_rest(self: sequencer.Sequencer) -> None:
        call()
        await rest(self)

    patch.setattr(sequencer.Sequencer, "_rest", call_and_rest)


def before_each_apply(call: Callable[[Batch], None], patch: pytest.MonkeyPatch) -> None:
    """Have it called with each batch of any journal, in the transaction that writes it."""

    def wrap(write: Callable[..., None]) -> Callable[..., None]:
        @wraps(write)
        def call_and_write(connection: Connection, batch: Batch, *args: Any) -> None:
            call(batch)
            write(connection, batch, *args)

        return call_and_write

    _wrap(journal_module, "write_batch", wrap, patch)


def before_each_insert(call: Callable[[Sequence[dict[str, Any]]], None], patch: pytest.MonkeyPatch) -> None:
    """Have it called with the entries of each batch of any journal, before they are written; it may refuse them."""

    def wrap(insert: Callable[..., None]) -> Callable[..., None]:
        def call_and_insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
            call(rows)
            insert(connection, rows)

        return call_and_insert

    _wrap(transaction, "insert_entries", wrap, patch)


def forbid_several_statements(patch: pytest.MonkeyPatch) -> None:
    """Have a batch fail that is not written in one statement."""
    patch.setattr(journal_module, "write_batch", None)


def is_batch(fn: Callable[..., object]) -> bool:
    """Whether a function that is given to a database writes a batch of the journal."""
    return getattr(fn, "__name__", "") in ("write_batch", "write_plain_batch")


def _wrap(where: Any, name: str, wrap: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(where, name, wrap(getattr(where, name)))
