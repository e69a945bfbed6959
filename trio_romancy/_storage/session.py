"""The session of an activity or a block: the user's statements, in the transaction that also records the activity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy
import trio
from sqlalchemy import Connection, Engine, Executable, event
from sqlalchemy.engine import ExceptionContext, Result, RootTransaction, ScalarResult

from .database import Database, Transaction
from .dialects import dialect_of
from .dialects.errors import is_transient
from .session_owner import SessionOwner
from .session_turn import Savepoint, SessionTurn

if TYPE_CHECKING:
    import sqlalchemy.orm

E = TypeVar("E")
R = TypeVar("R")

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Session:
    """An asynchronous interface to one :class:`sqlalchemy.orm.Session`: one attempt of an activity, or one block.

    It takes Core statements and ORM objects, and is used like :class:`sqlalchemy.ext.asyncio.AsyncSession`. It has no
    ``commit``: its changes commit when the activity returns, together with the activity's journal entry, and are rolled
    back if the activity raises. Objects stay usable afterwards.

    The first statement begins the transaction. On SQLite an open transaction keeps all others from writing, so do slow
    things before the first statement.

    All tasks and threads of the activity may use it at once, from the first statement on. They share one transaction,
    in which their statements take turns. While one of them is in a block of :meth:`begin_nested`, the others wait until
    that block has ended, except those that were started in the block. An ORM object is for one task at a time.

    The session ends with its attempt. A thread or a task that the attempt has left behind gets a
    :class:`~trio_romancy.RomancyError` for each further use, and what it was doing in that moment is not committed.

    Cancellation never tears a statement: it is delivered when the statement has ended. On a server, a statement that
    goes on for five seconds after the cancellation is interrupted, and the transaction is rolled back.

    In a plain ``def`` activity, which runs in a thread, call its methods through :func:`trio.from_thread.run`::

        trio.from_thread.run(current_activity().session.execute, statement)
    """

    def __init__(self, database: Database, owner: SessionOwner) -> None:
        self._database = database
        self._owner = owner
        self._exits = AsyncExitStack()
        self._turn = SessionTurn(owner.log_long_wait)
        self._has_ended = False
        """Whether the attempt has ended, so that nothing more may begin."""
        self._is_closed = False
        """Whether the transaction was, or will be, rolled back."""
        self._running: trio.CancelScope | None = None
        """Scope of the statement that is running for the activity."""
        self._apart = 0
        """Number of calls under way that would wait for the transaction, and that it must wait for."""
        self._apart_ended: trio.Event | None = None
        self._is_opening = False
        self._transaction: Transaction | None = None
        self._session: sqlalchemy.orm.Session | None = None
        self._root: RootTransaction | None = None
        """The transaction, as SQLAlchemy's connection has it."""
        self._errors: list[Exception] = []
        """Errors of the database that have ended the transaction, also if the activity caught them."""
        self._after_commit: list[Callable[[], object]] = []

    @property
    def lost(self) -> Exception | None:
        """The error with which the database ended the transaction. None if it has not."""
        return self._errors[0] if self._errors else None

    @property
    def is_open(self) -> bool:
        """Whether a statement has been run, which begins the transaction."""
        return self._transaction is not None

    @property
    def has_begun(self) -> bool:
        """Whether the transaction is open, or is being opened."""
        return self._transaction is not None or self._is_opening

    @property
    def has_ended(self) -> bool:
        """Whether each further use is refused."""
        return self._has_ended

    async def run_sync(self, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        """Run ``fn(session)`` with the synchronous session and return its result.

        Use it to run many statements in one go, and to follow relationships that load lazily. ``fn`` may run in another
        thread, and no other task has the session meanwhile.

        Raises:
          RomancyError: if the attempt has ended, or its code has ended the transaction.
        """
        async with self._turn.taken():
            return await self._run_in_turn(fn)

    async def _run_in_turn(self, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        self._refuse_if_ended()
        with trio.CancelScope() as self._running:
            if self._transaction is None:
                await self._open()
            assert self._transaction is not None
            if not self._is_closed:
                result = await self._transaction.run(self._with_session, fn)
                if not self._is_closed:
                    return result
        self._refuse_if_ended()
        raise AssertionError  # only `aclose` cancels the scope

    async def _open(self) -> None:
        """Begin the transaction, after the calls that would wait for it."""
        while self._apart:
            self._apart_ended = trio.Event()
            await self._apart_ended.wait()
        self._is_opening = True
        try:
            self._transaction = await self._exits.enter_async_context(self._database.open_transaction())
        finally:
            self._is_opening = False

    def _refuse_if_ended(self) -> None:
        """Refuse a use after the end.

        Raises:
          RomancyError: if the session has ended.
        """
        if self._has_ended:
            raise self._owner.refusal_after_end()

    def _with_session(self, connection: Connection, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        if self._errors:
            # Some databases would silently begin another transaction, and commit half of the changes.
            raise self._errors[0]
        if self._session is None:
            connection.execution_options(romancy_errors=self._errors)
            import sqlalchemy.orm  # only now: it adds thousands of objects to memory

            # The engine commits the transaction; the session only flushes into it.
            self._root = connection.get_transaction() or connection.begin()
            self._session = sqlalchemy.orm.Session(
                bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only"
            )
        self._check_transaction(connection)
        result = fn(self._session)
        self._check_transaction(connection)
        return result

    def _check_transaction(self, connection: Connection) -> None:
        """Check that what was written is in the transaction that will be committed.

        Raises:
          RomancyError: if code of the activity has ended the transaction. Another one would begin silently.
        """
        assert self._session is not None
        is_same = connection.get_transaction() is self._root
        if not is_same and self._session.is_active and not self._errors:  # if not active, SQLAlchemy says why
            raise self._owner.refusal_of_end_by_code()

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

    def begin_nested(self) -> AbstractAsyncContextManager[None]:
        """Open a savepoint. If the block raises, only its changes are undone, and the exception propagates.

        Tasks that were started in the block take part in it. All others wait until it has ended.
        """
        return _Savepoint(self)

    # -- called by the runtime -------------------------------------------------------------------------------------

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Keep the transaction from beginning in this block, which writes apart from it to a database with one writer.

        The transaction must not have begun.
        """
        self._apart += 1
        try:
            yield
        finally:
            self._apart -= 1
            if self._apart == 0 and self._apart_ended is not None:
                self._apart_ended.set()

    def end(self) -> None:
        """Refuse each further use: the attempt has ended."""
        self._has_ended = True
        self._turn.end_all()

    async def finish(self) -> None:
        """End the use by the activity, which has returned. A statement that still runs belongs to the transaction."""
        self.end()
        async with self._turn.taken_from_all():
            pass

    async def flush_all(self) -> None:
        """Flush pending changes, if there are any, after :meth:`finish`."""
        session = self._session
        if session is not None and (session.new or session.dirty or session.deleted):
            assert self._transaction is not None
            await self._transaction.run(self._with_session, lambda session: session.flush())

    async def commit_with(self, record: Callable[[Connection], None]) -> None:
        """Commit the session's changes together with what ``record`` writes."""
        assert self._transaction is not None

        def finish(session: sqlalchemy.orm.Session) -> None:
            session.flush()
            connection = session.connection()
            dialect = dialect_of(connection)
            dialect.limit_idleness(connection)
            if not dialect.is_in_transaction(connection):
                raise self._owner.refusal_of_end_by_code()
            record(connection)

        await self._transaction.commit(lambda connection: self._with_session(connection, finish))

    def notify_committed(self) -> None:
        """Call what :meth:`after_commit` has been given: the transaction was committed, perhaps without an answer."""
        for call in self._after_commit:
            call()

    def after_commit(self, call: Callable[[], object]) -> None:
        """Have a function called after the commit. It must not raise."""
        self._after_commit.append(call)

    async def aclose(self) -> None:
        """Roll back what was not committed, and release the connection. A statement that runs is cancelled."""
        self.end()
        self._is_closed = True
        if self._running is not None:
            self._running.cancel()
        with trio.CancelScope(shield=True):
            async with self._turn.taken_from_all():
                await self._exits.aclose()


class _Savepoint(AbstractAsyncContextManager[None]):
    """The block of a savepoint.

    No generator: :mod:`contextlib` assigns to the exceptions that leave its block, which frozen ones refuse.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._nested: sqlalchemy.orm.SessionTransaction
        self._savepoint: Savepoint

    async def __aenter__(self) -> None:
        session = self._session
        async with session._turn.taken():
            self._nested = await session._run_in_turn(lambda session: session.begin_nested())
            self._savepoint = session._turn.begin()

    async def __aexit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                await self._commit()
            else:
                await self._roll_back()
        finally:
            self._session._turn.end(self._savepoint)

    async def _commit(self) -> None:
        session, is_committing = self._session, False
        try:
            async with session._turn.taken():
                is_committing = True
                await session._run_in_turn(lambda _: self._nested.commit())
        except BaseException:
            if not is_committing:
                await self._roll_back()
            raise

    async def _roll_back(self) -> None:
        session = self._session
        # Shielded: a timeout inside the activity must not keep half of the savepoint's changes.
        with trio.CancelScope(shield=True):
            async with session._turn.taken_from_all():
                if not session._errors and not session._has_ended:
                    await session._run_in_turn(lambda _: self._nested.rollback())


def report_lost_transactions(engine: Engine) -> None:
    """Make an engine report an error that ends a transaction to the :class:`Session` that has it, as its ``lost``."""

    @event.listens_for(engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception or context.original_exception
        if context.connection is None or not isinstance(error, Exception):
            return
        if context.is_disconnect or is_transient(error):
            context.connection.get_execution_options().get("romancy_errors", []).append(error)
