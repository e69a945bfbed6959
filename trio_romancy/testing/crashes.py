"""A database that kills its worker or its actors, or fails, at chosen commits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import ParamSpec, TypeVar

import trio
from attrs import define, field, frozen
from sqlalchemy import Connection

from .._runtime.worker.worker import Worker
from .._storage.database import Database, SQLFunction, ThreadConnection, Transaction, Writer
from ..errors import DatabaseAwayError, RomancyError

P = ParamSpec("P")
R = TypeVar("R")


class How(StrEnum):
    """Kind of crash at a commit."""

    ACTOR_BEFORE = "actor crashes before"
    ACTOR_AFTER = "actor crashes after"
    WORKER_BEFORE = "worker dies before"
    WORKER_AFTER = "worker dies after"
    ANSWER_LOST = "committed, and the answer is lost"
    DATABASE_AWAY = "the database is away"


@frozen
class Crash:
    """A crash at one commit."""

    commit: int
    """Number of the commit, from 1."""
    how: How

    def __str__(self) -> str:
        return f"commit {self.commit}: {self.how}"


class InjectedCrash(RomancyError):
    """Raised in a crashing actor, and by a commit of a dying worker."""


@define(eq=False)
class CrashingDatabase:
    """Wraps another database, and injects crashes at its commits."""

    _inner: Database
    _crashes: Mapping[int, How]
    worker: Worker | None = None
    """Worker that crashes. Commits are counted while it is set."""
    commits: int = 0
    reached: set[int] = field(factory=set)
    """Commits of the crashes that have happened."""
    is_exclusive = True  # so that no worker polls, which is slow under virtual time
    can_listen = False

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def has_one_writer(self) -> bool:
        return self._inner.has_one_writer

    @property
    def is_pooled(self) -> bool:
        return self._inner.is_pooled

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._commit(lambda: self._inner.run(fn, *args, **kwargs))

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._inner.read(fn, *args, **kwargs)

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._inner.run_long(fn, *args, **kwargs)

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._inner.alter(fn, *args, **kwargs)

    def end_by(self, deadline: float) -> None:
        self._inner.end_by(deadline)

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        await self._inner.listen(on_notify)

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        async with self._inner.open_writer() as writer:
            yield _CrashingWriter(writer, self)

    def thread_connection(self) -> ThreadConnection:
        return self._inner.thread_connection()

    @asynccontextmanager
    async def open_transaction(self) -> AsyncIterator[Transaction]:
        async with self._inner.open_transaction() as transaction:
            yield _CrashingTransaction(transaction, self)

    async def _commit(self, commit: Callable[[], Awaitable[R]], *, dies_with_worker: bool = False) -> R:
        worker = self.worker  # it may be set to None during the commit
        if worker is None:
            return await commit()
        self.commits += 1
        how = self._crashes.get(self.commits)
        if how is None:
            return await commit()
        self.reached.add(self.commits)
        if how is How.DATABASE_AWAY:
            raise _away()
        if how is How.ACTOR_BEFORE:
            worker.crash_actors(InjectedCrash("an actor crashes"))
        if how is How.WORKER_BEFORE:
            await _kill(worker, dies_with_worker)
        result = await commit()
        if how is How.ACTOR_AFTER:
            worker.crash_actors(InjectedCrash("an actor crashes"))
        if how is How.WORKER_AFTER:
            await _kill(worker, dies_with_worker)
        if how is How.ANSWER_LOST:
            raise _away()
        return result


@define(eq=False)
class _CrashingWriter:
    """The writer of the journal."""

    _inner: Writer
    _database: CrashingDatabase

    @property
    def autocommit(self) -> Writer | None:
        inner = self._inner.autocommit
        return None if inner is None else _CrashingWriter(inner, self._database)

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._database._commit(lambda: self._inner.run(fn, *args, **kwargs))


@define(eq=False)
class _CrashingTransaction:
    """The transaction of an activity."""

    _inner: Transaction
    _database: CrashingDatabase

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._inner.run(fn, *args, **kwargs)

    async def commit(self, last: Callable[[Connection], None]) -> None:
        await self._database._commit(lambda: self._inner.commit(last), dies_with_worker=True)


async def _kill(worker: Worker, dies_with_worker: bool) -> None:
    """Kill the worker. A commit by one of its tasks fails, too; a client that is committing goes on."""
    worker.abandon()
    await trio.lowlevel.checkpoint_if_cancelled()
    if dies_with_worker:
        raise InjectedCrash("the worker dies")


def _away() -> DatabaseAwayError:
    return DatabaseAwayError("injected: the database is away")
