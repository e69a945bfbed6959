"""The interface that each database's module implements: :mod:`.sqlite`, :mod:`.mysql`, :mod:`.postgresql`.

A module *is* the implementation: its functions are the methods. :func:`~.dialect_of` chooses among them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection

from ..._data.conditions import Path
from ...clock import Microseconds
from .sql import Rows, UpdateMany


class Dialect(Protocol):
    """The functions that differ between databases.

    SQL constructs differ too. Those are compiled by the hooks in each database's module: see :mod:`.sql`.
    """

    # -- the database --------------------------------------------------------------------------------------------------

    def product_name(self, connection: Connection) -> str:
        """Return the name of the product, as its makers write it."""
        ...

    def server_time(self, connection: Connection) -> Microseconds | None:
        """Return the time by the server's clock. None if the database runs in this process, on its clock."""
        ...

    def file_name(self, connection: Connection) -> str | None:
        """Return the name of the file that the database is in: empty if it is in memory, None if it is on a server."""
        ...

    def unsafe_settings(self, connection: Connection) -> list[str]:
        """Return the settings under which a crash of the server's machine can undo commits, each as it should be."""
        ...

    def loses_by_fail_over(self, connection: Connection) -> str | None:
        """Return the setting without which a standby that takes over may lack commits; None: no standby lacks any.

        None as well if the database does not tell.
        """
        ...

    def payload_problem(self, connection: Connection, largest: int) -> str | None:
        """Return why the server does not take a payload of that many bytes, with the setting to change; or None."""
        ...

    # -- statements ----------------------------------------------------------------------------------------------------

    def update_many(self, connection: Connection, statement: UpdateMany, rows: Rows) -> int | None:
        """Update rows, in order. Return how many were matched; None if the driver does not say."""
        ...

    def notify_workers(self, connection: Connection, owners: Iterable[str | None]) -> None:
        """Notify listening workers, when the transaction commits, that something has become due.

        Does nothing if the database has no notifications: workers then find what is due by polling.

        Args:
          owners: ids of the workers that own what is due. None stands for "any worker".
        """
        ...

    @property
    def has_loose_index_scans(self) -> bool:
        """Whether a query for the minimum of each group reads only one entry of an index for each group.

        If not, a correlated subquery with an order and a limit reads only one. Where MariaDB has such a subquery, it
        reads from the NULLs on.
        """
        ...

    def limit_idleness(self, connection: Connection) -> None:
        """Limit how long the rest of this transaction may be idle, to :data:`.limits.IDLE_TIMEOUT`."""
        ...

    def is_in_transaction(self, connection: Connection) -> bool:
        """Return whether the driver is in a transaction, as SQLAlchemy believes. True where the driver cannot tell."""
        ...

    def misses_commits(self, connection: Connection) -> bool:
        """Return whether a query of this transaction may miss what was committed before the query, without an error.

        Transactions of the engine are under READ COMMITTED, and miss nothing. Those of callers may differ.
        """
        ...

    # -- migrations ----------------------------------------------------------------------------------------------------

    def has_table(self, connection: Connection, name: str, schema: str | None = None) -> bool:
        """Return whether there is a table of that name. Never an error, which would end a transaction of a caller.

        Args:
          schema: the schema that it is in; None: the one where a statement finds it.
        """
        ...

    @property
    def ddl_commits(self) -> bool:
        """Whether a statement that creates or alters a table commits at once, so that a migration can stop half way."""
        ...

    def table_definitions(self, connection: Connection, prefix: str) -> list[str] | None:
        """Return the statements that create all tables whose names start with a prefix, and their indexes.

        None if the database does not keep those statements.
        """
        ...

    def migration_lock(self, connection: Connection) -> AbstractContextManager[None]:
        """Keep other processes from migrating the same database until the block ends.

        On a cluster the lock covers one node. A process that migrates through another node gets an error for which
        :func:`~.errors.is_already_applied` returns True.

        Raises:
          DatabaseAwayError: if another process still holds the lock after :data:`.limits.LOCK_TIMEOUT`.
        """
        ...

    def create_start_routine(self, connection: Connection) -> None:
        """Create ``romancy_start``, by which programs in other languages start instances, or replace it.

        Does nothing if the database has no such routines, or if its user may not create them.
        """
        ...

    # -- the index over a path of the inputs ---------------------------------------------------------------------------

    def literal(self, ascii_text: str) -> str:
        """Return SQL for a text constant, whatever the settings of the server are.

        The SQL does not contain the text itself, so nothing in the text needs an escape.
        """
        ...

    def key_sql(self, document: str, path: Path) -> str:
        """Return SQL for the key of the value at a path of a JSON document. The key is NULL if nothing is there.

        Args:
          document: SQL for the JSON text.
        """
        ...

    def indexed_key(self, path: Path) -> ColumnElement[str]:
        """Return the key at a path of an instance's input as its index stores it.

        The expression names the column without its table, so the SELECT can read from no other table.
        """
        ...

    def existing_indexes(self, connection: Connection, names: Collection[str]) -> set[str]:
        """Return those of the named indexes that are complete."""
        ...

    def create_input_index(self, connection: Connection, path: Path) -> bool:
        """Create the index over a path, or complete the one that a call which died has left.

        Returns False if another process is creating an index just now.
        """
        ...


class ServerDialect(Dialect, Protocol):
    """The functions that differ between database servers, besides those of every database."""

    @property
    def has_notifications(self) -> bool:
        """Whether :meth:`listen` works, and :meth:`notify_workers` does anything."""
        ...

    def use_schema(self, connection: Connection, schema: str) -> AbstractContextManager[None]:
        """Have names mean the tables of a schema in the block, on a connection of a caller."""
        ...

    def make_schema(self, connection: Connection, schema: str) -> None:
        """Create a schema unless it exists, and have names mean tables in it, until the transaction ends."""
        ...

    @property
    def has_free_autocommit(self) -> bool:
        """Whether a connection changes to and from autocommit without a round trip."""
        ...

    @property
    def writes_tables_together(self) -> bool:
        """Whether one statement can write several tables."""
        ...

    def set_up_connection(self, connection: Any, schema: str | None = None) -> None:
        """Make a new connection behave the same whatever the server is set to. The caller commits.

        The time zone is UTC; a value that does not fit its column is an error; and no statement waits for a lock longer
        than :data:`.limits.LOCK_TIMEOUT`.

        Args:
          connection: a DBAPI connection: one of PyMySQL, or of aiomysql or asyncpg as SQLAlchemy adapts it.
          schema: the schema of the tables; None: the usual one.

        Raises:
          DatabaseError: if the server is too old, or one of its settings makes it unfit.
          DatabaseAwayError: if the server cannot work just now.
        """
        ...

    def is_behind_pooler(self, connection: Any) -> bool:
        """Return whether a new DBAPI connection leads to a pooler, which may give each transaction another session."""
        ...

    @property
    def options_behind_pooler(self) -> Mapping[str, Any]:
        """Arguments for SQLAlchemy's driver with which a connection leaves nothing in a session."""
        ...

    def set_up_behind_pooler(self, connection: Any) -> None:
        """Keep the driver from changing settings of a session on a new DBAPI connection that leads to a pooler."""
        ...

    def set_up_transaction(self, connection: Connection, schema: str | None) -> None:
        """Make a transaction behave as :meth:`set_up_connection` makes a connection, and leave nothing after it."""
        ...

    def plan_once(self, connection: Connection, *, is_local: bool = False) -> None:
        """Make the server plan each statement once, and by keys, for a connection that repeats a few statements.

        Args:
          is_local: whether that ends with the transaction.
        """
        ...

    def allow_idleness(self, connection: Connection) -> None:
        """Let the transaction that starts with this call be idle without a limit."""
        ...

    def restore_idleness(self, connection: Connection) -> None:
        """Limit the idleness of later transactions again, where :meth:`allow_idleness` has changed more than one."""
        ...

    def connection_id(self, connection: Any) -> int:
        """Return the server's id of a DBAPI connection."""
        ...

    def end_connection(self, connection: Connection, id: int, age: float) -> None:
        """Make the server end another connection of this process, and so roll back its transaction.

        Does nothing if the server has restarted since that connection was made, because another client may have its id
        by now.

        Args:
          id: what :meth:`connection_id` returned for it.
          age: seconds since it was made.
        """
        ...

    async def listen(self, connection: Any, on_notify: Callable[[str], None], on_lost: Callable[[], None]) -> None:
        """Call ``on_notify`` after each :meth:`notify_workers` of any process, until ``on_lost`` is called.

        Runs in asyncio. Use it only if :attr:`has_notifications`.

        Args:
          connection: a connection of the driver that is used for nothing else.
          on_notify: called with the owner's id, or with an empty text for "any worker".
          on_lost: called when the connection has ended.
        """
        ...
