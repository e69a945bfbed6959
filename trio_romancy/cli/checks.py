"""The checks of ``doctor``: the database and its settings, the tables, and what waits in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from attrs import define, field, frozen
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from .._data.log_fields import visible
from .._storage import dialects, migrations
from .._storage.database import Database
from .._storage.dialects.errors import is_transient
from .._storage.drivers.urls import file_of
from .._storage.open import open_database
from .._storage.sql import checks, workers
from .._storage.sql.tables import REVISION
from ..clock import current_clock
from ..errors import DatabaseError
from .failures import only_leaf
from .terminal.wording import count, lasting

_OVERDUE = 60
"""Longest time that a due instance may wait for a worker, in seconds."""
_LEAST_SPACE = 256 * 1024 * 1024
"""Free space that a SQLite file needs, in bytes."""
_MOST_IDS = 5
_MOST_EVENTS = 10


class Verdict(StrEnum):
    """Verdict of a check."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, but not a problem."""
    PROBLEM = "problem"


@frozen
class Finding:
    """Result of one check."""

    check: str
    verdict: Verdict
    found: str
    todo: str | None = None
    """The cure; None if there is nothing to do."""


async def examine(url: str) -> list[Finding]:
    """Run all checks. A problem of the database is a finding, and never raised."""
    examination = _Examination(url)
    try:
        if examination.check_file():
            async with open_database(url) as database:
                await examination.check_database(database)
    except (BaseExceptionGroup, DatabaseError) as error:
        leaf = only_leaf(error)
        if not isinstance(leaf, DatabaseError):
            raise
        examination.problem("database", str(leaf), "check its name, and that this user may use it")
    return examination.findings


@define(eq=False)
class _Examination:
    _url: str
    findings: list[Finding] = field(factory=list)
    revision: str | None = None
    """Revision of the tables; None if the database has no tables."""

    def ok(self, check: str, found: str) -> None:
        self.findings.append(Finding(check, Verdict.OK, found))

    def note(self, check: str, found: str, todo: str | None = None) -> None:
        self.findings.append(Finding(check, Verdict.NOTE, found, todo))

    def problem(self, check: str, found: str, todo: str) -> None:
        self.findings.append(Finding(check, Verdict.PROBLEM, found, todo))

    # -- before it is opened -------------------------------------------------------------------------------------------

    def check_file(self) -> bool:
        """Return whether to go on. A file that does not exist is not created."""
        file = file_of(self._url)
        if file is None:
            return True
        if file == "":
            self.problem("database", "it is in memory, and exists only in its own process", "name a file, or a server")
            return False
        if not os.path.exists(file):
            self.problem("file", f"there is no {file}", "run trio-romancy migrate to create it, or correct the name")
            return False
        locked = [file + end for end in ("", "-wal", "-shm") if os.path.exists(file + end)]
        locked = [name for name in locked if not os.access(name, os.R_OK | os.W_OK)]
        if locked:
            todo = "give the user of this process read and write permission"
            self.problem("file", f"{', '.join(locked)} cannot be read and written", todo)
            return False
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(file))).free
        found = f"{Path(file).stat().st_size / 1e6:,.1f} MB, {free / 1e9:,.1f} GB free beside it"
        if free < _LEAST_SPACE:
            self.problem("file", found, "free some space: SQLite cannot write to a full disk")
        else:
            self.ok("file", found)
        return True

    # -- inside --------------------------------------------------------------------------------------------------------

    async def check_database(self, database: Database) -> None:
        if not await self._try("connection", self._check_connection, database):
            return
        self._check_pooler(database)
        await self._try("clock", self._check_clock, database)
        await self._try("settings", self._check_settings, database)
        if not await self._try("tables", self._check_tables, database):
            return
        await self._try("rights", self._check_rights, database)
        if self.revision == REVISION:
            await self._try("workers", self._check_workers, database)
            await self._try("stuck", self._check_stuck, database)
            await self._try("outbox", self._check_outbox, database)

    async def _try(self, check: str, run: Callable[..., Awaitable[None]], *arguments: object) -> bool:
        """Run a check. Returns False if the database refused it."""
        try:
            await run(*arguments)
        except (DatabaseError, DBAPIError) as error:
            todo = "check that the user of the database URL may do that"
            if check == "connection" or is_transient(error):
                todo = "check that the server runs, and that host, port, user, password and database are right"
            said = error.orig if isinstance(error, DBAPIError) else error
            self.problem(check, f"it could not be checked: {said}", todo)
            return False
        return True

    async def _check_connection(self, database: Database) -> None:
        clock = current_clock()
        begun = clock.now()
        which = await database.read(dialects.describe)
        took = (clock.now() - begun) / 1000
        self.ok("connection", f"{which} answers in {took:.0f} ms")
        if not which.startswith("SQLite"):
            drivers = {name: find_spec(name) is not None for name in ("aiomysql", "asyncpg")}
            there = ", ".join(name for name, is_there in drivers.items() if is_there)
            self.ok("drivers", f"installed: {there}")

    def _check_pooler(self, database: Database) -> None:
        if database.is_pooled:
            found = "a pooler of connections is before the server, so workers poll, and cannot make indexes"
            self.note("pooler", found, "give App a direct_url past the pooler, for notifications")

    async def _check_clock(self, database: Database) -> None:
        clock = current_clock()

        def ask(connection: Connection) -> tuple[int, int | None, int]:
            return clock.now(), dialects.server_time(connection), clock.now()

        await database.read(ask)  # the first read may have to open a connection
        earliest, there, latest = await database.read(ask)
        if there is None:
            self.ok("clock", "the database is on this machine")
            return
        apart = max(earliest - there, there - latest, 0) / 1_000_000
        if apart >= 1:
            side = "behind" if there > latest else "ahead of"
            found = f"this machine is {lasting(apart)} {side} the server, whose time counts"
            self.problem("clock", found, "set both clocks by NTP")
        else:
            self.ok("clock", "this machine and the server agree")

    async def _check_settings(self, database: Database) -> None:
        if wrong := await database.read(dialects.unsafe_settings):
            found = "a crash of its machine can undo commits"
            self.note("settings", found, f"set {', '.join(wrong)}, unless other machines have a copy")
        else:
            self.ok("settings", "every commit survives a crash")
        if name := await database.read(dialects.loses_by_fail_over):
            found = "commits do not wait for its standbys, so a standby that takes over can lack the last ones"
            self.note("replication", found, f"set {name}, or be ready to start again what was started last")

    async def _check_tables(self, database: Database) -> None:
        self.revision = await database.read(migrations.revision)
        if self.revision is None:
            self.problem("tables", "there are no tables of trio_romancy", "run trio-romancy migrate")
        elif self.revision < REVISION:
            found = f"they have revision {self.revision}, this version works with {REVISION}"
            self.problem("tables", found, "run trio-romancy migrate")
        elif self.revision > REVISION:
            found = f"they have revision {self.revision}, this version knows up to {REVISION}"
            self.problem("tables", found, "install the version of trio_romancy that has migrated them, or a newer one")
        else:
            self.ok("tables", f"they are up to date: revision {REVISION}")

    async def _check_rights(self, database: Database) -> None:
        is_current = self.revision == REVISION
        missing: dict[str, list[str]] = {}
        for table in checks.TABLES if is_current else ():
            for right in checks.RIGHTS:
                try:
                    async with database.open_transaction() as transaction:
                        await transaction.run(checks.use_right, table, right)
                except DBAPIError as error:
                    if is_transient(error):
                        raise
                    missing.setdefault(table, []).append(right)
        for table, rights in missing.items():
            todo = f"GRANT {', '.join(rights)} ON {table} to the user of the database URL"
            self.problem("rights", f"{' and '.join(rights)} on {table} refused", todo)
        if is_current and not missing:
            self.ok("rights", "all tables can be read and written")
        try:
            async with database.open_transaction() as transaction:
                could = await transaction.run(checks.use_right_to_create, tables_exist=self.revision is not None)
        except DBAPIError as error:
            if is_transient(error):
                raise
            if is_current:
                self.note("rights", "tables cannot be created: another user must migrate after an upgrade")
            else:
                todo = "GRANT the right to create, alter and drop tables, or let another user run trio-romancy migrate"
                self.problem("rights", f"tables cannot be created: {error.orig}", todo)
        else:
            if could:
                self.ok("rights", "tables can be created")

    # -- what waits in the tables -------------------------------------------------------------------------------------

    async def _check_workers(self, database: Database) -> None:
        now = await database.read(dialects.server_time) or current_clock().now()
        found = await database.read(workers.list_workers, now)
        alive = [worker for worker in found if worker.is_alive]
        if unreadable := await database.read(workers.unreadable_workers):
            todo = "if its worker does not run, delete it from romancy_workers; a worker that joins again replaces it"
            self.problem("workers", f"damaged row: {', '.join(map(visible, unreadable))}", todo)
        overdue = await database.read(checks.overdue, now - _OVERDUE * 1_000_000)
        left = sum(worker.owned for worker in found if not worker.is_alive)
        start = "start one: trio-romancy worker MODULE:APP"
        if alive:
            self.ok("workers", f"{count(len(alive), 'worker')} alive")
            if len(found) > len(alive):
                self.note("workers", f"{len(found) - len(alive)} dead, whose leases the others will end")
        elif overdue or left:
            self.problem("workers", f"none is alive, and {count(left, 'instance')} belong to dead ones", start)
        else:
            self.note("workers", "none is alive", start)
        if overdue:
            by_workflow = ", ".join(f"{number:,} of {name!r}" for name, number in sorted(overdue.items()))
            found_due = f"due for more than {_OVERDUE} s, and no worker takes them: {by_workflow}"
            todo = "check that a worker runs that defines these workflows, with code that fits, and keeps up"
            self.problem("instances", found_due, todo)

    async def _check_stuck(self, database: Database) -> None:
        ids = await database.read(checks.stuck_instances, _MOST_IDS + 1)
        if not ids:
            self.ok("stuck", "no instance is stuck")
            return
        shown = ", ".join(ids[:_MOST_IDS]) + (", and more" if len(ids) > _MOST_IDS else "")
        todo = "find out why (trio-romancy show ID), fix the cause, then trio-romancy resume ID"
        self.problem("stuck", f"stuck: {shown}", todo)

    async def _check_outbox(self, database: Database) -> None:
        number, first = await database.read(checks.dead_events, _MOST_EVENTS)
        if number:
            todo = "find out why (trio-romancy outbox list), then trio-romancy outbox retry --all"
            named = ", ".join(
                f"{visible(str(event.event_id))} ({visible(str(event.type))}, {event.status})" for event in first
            )
            more = f" and {number - len(first)} more" if number > len(first) else ""
            self.problem("outbox", f"{count(number, 'event')} failed, invalid or expired: {named}{more}", todo)
        else:
            self.ok("outbox", "no event was given up")
