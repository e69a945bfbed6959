"""The session of an activity: the user's statements, in the transaction that also records the activity."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy
import trio
from sqlalchemy import Connection, Engine, Executable, event
from sqlalchemy.engine import ExceptionContext, Result, ScalarResult

from .database import Database, Transaction
from .dialects import dialect_of
from .dialects.errors import is_transient

if TYPE_CHECKING:
    import sqlalchemy.orm

E = TypeVar("E")
R = TypeVar("R")

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Session:
    """An asynchronous interface to one :class:`sqlalchemy.orm.Session`, for one attempt of an activity.

    It takes Core statements and ORM objects, and is used like :class:`sqlalchemy.ext.asyncio.AsyncSession`. It has no
    ``commit``: its changes commit when the activity returns, together with the activity's journal entry, and are rolled
    back if the activity raises. Objects stay usable afterwards.

    The first statement begins the transaction. On SQLite an open transaction keeps all others from writing, so do slow
    things before the first statement.

    Cancellation never tears a statement: it is delivered when the statement has ended. On a server, a statement that
    goes on for five seconds after the cancellation is interrupted, and the transaction is rolled back.

    In a plain ``def`` activity, which runs in a thread, call its methods through :func:`trio.from_thread.run`::

        trio.from_thread.run(current_activity().session.execute, statement)
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._exits = AsyncExitStack()
        self._transaction: Transaction | None = None
        self._session: sqlalchemy.orm.Session | None = None
        self._errors: list[Exception] = []
        """Errors of the database that have ended the transaction, also if the activity caught them."""

    @property
    def lost(self) -> Exception | None:
        """The error with which the database ended the transaction. None if it has not."""
        return self._errors[0] if self._errors else None

    @property
    def is_open(self) -> bool:
        """Whether a statement has been run, which begins the transaction."""
        return self._transaction is not None

    async def run_sync(self, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        """Run ``fn(session)`` with the synchronous session and return its result.

        Use it to run many statements in one go, and to follow relationships that load lazily. ``fn`` may run in another
        thread.
        """
        if self._transaction is None:
            self._transaction = await self._exits.enter_async_context(self._database.open_transaction())
        return await self._transaction.run(self._with_session, fn)

    def _with_session(self, connection: Connection, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        if self._errors:
            # Some databases would silently begin another transaction, and commit half of the changes.
            raise self._errors[0]
        if self._session is None:
            connection.execution_options(romancy_errors=self._errors)
            import sqlalchemy.orm  # only now: it adds thousands of objects to memory

            # The engine commits the transaction; the session only flushes into it.
            self._session = sqlalchemy.orm.Session(
                bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only"
            )
        return fn(self._session)

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> Result[Any]:
        """Run a statement and return its result, with all rows fetched."""

        def execute(session: sqlalchemy.orm.Session) -> Result[Any]:
            result = session.execute(statement, parameters, execution_options={"prebuffer_rows": True})
            if isinstance(result, sqlalchemy.CursorResult) and result.returns_rows:
                return result.freeze()()  # a cursor cannot leave the thread that made it
            return result

        return await self.run_sync(execute)

    async def scalars(self, statement: Executable, parameters: Parameters | None = None) -> ScalarResult[Any]:
        """Run a statement and return the first column of every row."""
        return (await self.execute(statement, parameters)).scalars()

    async def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """Run a statement and return the first column of the first row, or None if there is no row."""
        return (await self.execute(statement, parameters)).scalar()

    async def get(self, entity: type[E], key: Any, **options: Any) -> E | None:
        """Return the object with a primary key, or None."""
        return await self.run_sync(lambda session: session.get(entity, key, **options))

    async def add(self, instance: object) -> None:
        """Add an object. The next flush inserts it."""
        await self.run_sync(lambda session: session.add(instance))

    async def add_all(self, instances: Iterable[object]) -> None:
        """Add objects. The next flush inserts them."""
        await self.run_sync(lambda session: session.add_all(instances))

    async def delete(self, instance: object) -> None:
        """Mark an object as deleted. The next flush deletes it."""
        await self.run_sync(lambda session: session.delete(instance))

    async def refresh(self, instance: object) -> None:
        """Load the columns of an object again."""
        await self.run_sync(lambda session: session.refresh(instance))

    async def flush(self) -> None:
        """Send pending changes to the database now. Queries and the end of the activity do so by themselves."""
        await self.run_sync(lambda session: session.flush())

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        """Open a savepoint. If the block raises, only its changes are undone, and the exception propagates."""
        savepoint = await self.run_sync(lambda session: session.begin_nested())
        try:
            yield
        except BaseException:
            # Shielded: a timeout inside the activity must not keep half of the savepoint's changes.
            with trio.CancelScope(shield=True):
                if not self._errors:
                    await self.run_sync(lambda _: savepoint.rollback())
            raise
        await self.run_sync(lambda _: savepoint.commit())

    async def flush_all(self) -> None:
        """Flush pending changes, if there are any. Called by the runtime."""
        session = self._session
        if session is not None and (session.new or session.dirty or session.deleted):
            await self.flush()

    async def commit_with(self, record: Callable[[Connection], None]) -> None:
        """Commit the session's changes together with what ``record`` writes. Called by the runtime."""
        assert self._transaction is not None

        def finish(session: sqlalchemy.orm.Session) -> None:
            session.flush()
            connection = session.connection()
            dialect_of(connection).limit_idleness(connection)
            record(connection)

        await self._transaction.commit(lambda connection: self._with_session(connection, finish))

    async def aclose(self) -> None:
        """Roll back what was not committed, and release the connection. Called by the runtime."""
        await self._exits.aclose()


def report_lost_transactions(engine: Engine) -> None:
    """Make an engine report an error that ends a transaction to the :class:`Session` that has it, as its ``lost``."""

    @event.listens_for(engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception or context.original_exception
        if context.connection is None or not isinstance(error, Exception):
            return
        if context.is_disconnect or is_transient(error):
            context.connection.get_execution_options().get("romancy_errors", []).append(error)
