"""The user's own statements, in the transaction that also records their activity."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy
import trio
from sqlalchemy import Connection, Engine, Executable, event
from sqlalchemy.engine import ExceptionContext, Result, ScalarResult

from .database import Database, Transaction
from .dialects import is_transient, limit_idleness

if TYPE_CHECKING:
    import sqlalchemy.orm

E = TypeVar("E")
R = TypeVar("R")

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Session:
    """An asynchronous face of one :class:`sqlalchemy.orm.Session`, for one attempt of an activity.

    It takes Core statements and ORM objects alike, and is used like :class:`sqlalchemy.ext.asyncio.AsyncSession`.
    It has no ``commit``: what was done through it commits when the activity returns, together with the activity's
    journal entry, and is rolled back when it raises. Objects stay usable after that.

    On SQLite an open transaction keeps everybody else from writing: do slow things before the first statement.

    In a plain ``def`` activity, which runs in a thread, call it through :func:`trio.from_thread.run`::

        trio.from_thread.run(current_activity().session.execute, statement)
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._exits = AsyncExitStack()
        self._transaction: Transaction | None = None
        self._session: sqlalchemy.orm.Session | None = None
        self._errors: list[Exception] = []
        """What the database has raised that ended the transaction, whoever caught it."""

    @property
    def lost(self) -> Exception | None:
        """Why the database has lost the transaction; None if it has not."""
        return self._errors[0] if self._errors else None

    @property
    def is_open(self) -> bool:
        """Whether a statement has been run, so that there is a transaction."""
        return self._transaction is not None

    async def run_sync(self, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        """Run ``fn(session)`` with the synchronous session, in one crossing, and return its result.

        The way to do many statements at once, and to walk relationships that load lazily.
        """
        if self._transaction is None:
            self._transaction = await self._exits.enter_async_context(self._database.open_transaction())
        return await self._transaction.run(self._with_session, fn)

    def _with_session(self, connection: Connection, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        if self._errors:
            # Some databases would silently begin another transaction, and commit half of what was done.
            raise self._errors[0]
        if self._session is None:
            connection.execution_options(romancy_errors=self._errors)
            import sqlalchemy.orm  # only now: who uses no session is spared thousands of objects in memory

            # The transaction is ours to commit; the session only ever flushes into it.
            self._session = sqlalchemy.orm.Session(
                bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only"
            )
        return fn(self._session)

    async def execute(self, statement: Executable, parameters: Parameters | None = None) -> Result[Any]:
        """Run a statement. Rows, if it returns any, have all been fetched."""

        def execute(session: sqlalchemy.orm.Session) -> Result[Any]:
            result = session.execute(statement, parameters, execution_options={"prebuffer_rows": True})
            if isinstance(result, sqlalchemy.CursorResult) and result.returns_rows:
                return result.freeze()()  # a cursor belongs to the thread that made it
            return result

        return await self.run_sync(execute)

    async def scalars(self, statement: Executable, parameters: Parameters | None = None) -> ScalarResult[Any]:
        """The first column of every row."""
        return (await self.execute(statement, parameters)).scalars()

    async def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """The first column of the first row, or None."""
        return (await self.execute(statement, parameters)).scalar()

    async def get(self, entity: type[E], key: Any, **options: Any) -> E | None:
        """The object with this primary key, or None."""
        return await self.run_sync(lambda session: session.get(entity, key, **options))

    async def add(self, instance: object) -> None:
        """Add an object, to be inserted at the next flush."""
        await self.run_sync(lambda session: session.add(instance))

    async def add_all(self, instances: Iterable[object]) -> None:
        """Add objects, to be inserted at the next flush."""
        await self.run_sync(lambda session: session.add_all(instances))

    async def delete(self, instance: object) -> None:
        """Mark an object to be deleted at the next flush."""
        await self.run_sync(lambda session: session.delete(instance))

    async def refresh(self, instance: object) -> None:
        """Load an object's columns again."""
        await self.run_sync(lambda session: session.refresh(instance))

    async def flush(self) -> None:
        """Send pending changes to the database now. It happens by itself before queries and at the end."""
        await self.run_sync(lambda session: session.flush())

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        """A savepoint: if the block raises, only what was done inside it is undone. The exception goes on."""
        savepoint = await self.run_sync(lambda session: session.begin_nested())
        try:
            yield
        except BaseException:
            # Shielded: a timeout inside the activity must not let half a savepoint through.
            with trio.CancelScope(shield=True):
                if not self._errors:
                    await self.run_sync(lambda _: savepoint.rollback())
            raise
        await self.run_sync(lambda _: savepoint.commit())

    async def flush_all(self) -> None:
        """Flush if there is anything to flush. For the runtime."""
        session = self._session
        if session is not None and (session.new or session.dirty or session.deleted):
            await self.flush()

    async def commit_with(self, record: Callable[[Connection], None]) -> None:
        """Commit, with what ``record`` writes. For the runtime."""
        assert self._transaction is not None

        def finish(session: sqlalchemy.orm.Session) -> None:
            session.flush()
            limit_idleness(session.connection())
            record(session.connection())

        await self._transaction.commit(lambda connection: self._with_session(connection, finish))

    async def aclose(self) -> None:
        """Roll back what was not committed, and give the connection back. For the runtime."""
        await self._exits.aclose()


def tell_sessions(engine: Engine) -> None:
    """Tell the session whose transaction an error of the database has ended."""

    @event.listens_for(engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception or context.original_exception
        if context.connection is None or not isinstance(error, Exception):
            return
        if context.is_disconnect or is_transient(error):
            context.connection.get_execution_options().get("romancy_errors", []).append(error)
