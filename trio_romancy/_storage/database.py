"""One interface to every database. :mod:`.open` chooses its implementation, :mod:`.drivers` has them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

P = ParamSpec("P")
R = TypeVar("R")

SQLFunction = Callable[Concatenate[Connection, P], R]
"""A plain function over a SQLAlchemy connection. All SQL of this package is written as such functions."""


class Transaction(Protocol):
    """An open transaction. It is rolled back unless :meth:`commit` is called."""

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` inside the transaction and return its result."""
        ...

    async def commit(self, last: Callable[[Connection], None]) -> None:
        """Run ``last(connection)``, then commit.

        If this raises, the transaction may have been committed all the same, unless the error says otherwise.
        """
        ...


class Writer(Protocol):
    """A connection that is reserved for one task that writes continuously."""

    @property
    def autocommit(self) -> Writer | None:
        """The same connection, with each statement as a transaction of its own.

        None if one statement of the database cannot write several tables, because then nothing is gained. See
        :mod:`.journal.single_statement`.
        """
        ...

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
        ...


class ThreadConnection(Protocol):
    """A connection of its own for one thread that is not trio's, and whose calls block."""

    def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
        ...

    def close(self) -> None:
        """Close the connection, if there is one. Called in the same thread."""
        ...


class Database(Protocol):
    """Runs plain functions over a connection, each in a transaction.

    Cancellation never tears a transaction: unless a method says otherwise, it is delivered before a transaction begins
    or after it has ended.
    """

    @property
    def name(self) -> str:
        """Name of the database in messages. Never contains a password."""
        ...

    @property
    def is_exclusive(self) -> bool:
        """Whether no other process can reach the database, so that there is nothing to poll for."""
        ...

    @property
    def has_one_writer(self) -> bool:
        """Whether an open transaction keeps all others from writing."""
        ...

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler gives each transaction another session, as far as is known."""
        ...

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
        ...

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function that only reads, without waiting for writers. Otherwise like :meth:`run`."""
        ...

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function that may take minutes, such as one that creates an index. Otherwise like :meth:`run`.

        On a server, cancellation is delivered at once, in the middle of a statement, and nothing is committed.
        """
        ...

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)``, which changes tables and may take minutes.

        On a server, each statement commits by itself, on a connection that is closed afterwards. Cancellation is
        delivered at once, in the middle of a statement; the server may still complete that statement.
        """
        ...

    def end_by(self, deadline: float) -> None:
        """Have the calls under way end by that time on trio's clock, and later ones at once, if the server is silent.

        They raise :exc:`.DatabaseAwayError` then. A file does not fall silent.
        """
        ...

    @property
    def can_listen(self) -> bool:
        """Whether :meth:`listen` reports what other processes have made due, so that polling can be rarer."""
        ...

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        """Call ``on_notify`` when a process has made something due, and when such a notification may have been missed.

        Holds a connection of its own, replaces it if it is lost, and returns only by cancellation.

        Args:
          on_notify: called with the id of the worker that owns what is due, or with an empty text for "any worker".
        """
        ...

    def open_writer(self) -> AbstractAsyncContextManager[Writer]:
        """Open a connection apart from the others, so that its user waits for no other user of the database."""
        ...

    def thread_connection(self) -> ThreadConnection:
        """Return a connection for a thread. It is made when it is first used, and again after an error."""
        ...

    def open_transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that lasts until the block ends."""
        ...
