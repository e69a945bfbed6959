"""The methods of an app that its clients call: start, send, search and steer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar, overload

from .._data.codec import codec
from .._data.conditions import GivenPath, Where, checked_where
from .._data.ids import is_id, new_id
from .._data.large import encoded
from .._definitions.registry import registry
from .._definitions.schedule import Schedule
from .._definitions.values import Workflow
from .._outbox.view import Outbox
from .._settings import Settings, as_statuses, check_numbers
from .._storage.outgoing import DEFAULT_SOURCE, check_input, event_row, message_row
from .._storage.sql import instances, search, workers
from .._storage.sql.messages import Outgoing
from .._storage.sql.rows import MessageRow
from ..clock import Duration, from_datetime
from ..errors import (
    DataProblem,
    InstanceExistsError,
    InvalidInputError,
    RomancyError,
)
from ..limits import Rate
from ..model import Instance, InstancePage, JournalPage, LimitInfo, Overlap, SendResult, Status, WorkerInfo
from . import purge as purging
from . import search as finding
from . import steering
from .engine import Engine, check_instance_id
from .forbidden_calls import refuse_in_workflow
from .handle import WorkflowHandle
from .joining import Joined, Joiner, make_in_trio
from .limits import set_limit, stored_limits
from .same_start import is_same_start
from .schedules import Schedules, new_schedule, put_schedule
from .transaction import TransactionBlock, TransactionSession
from .wrong_place import refuse_other_run

P = ParamSpec("P")
R = TypeVar("R")


class Client:
    """The half of an :class:`App` that needs no worker in its own process.

    Every method waits as long as the database is away. Cancelling the call ends the wait.
    """

    _url: str
    _schema: str | None
    _settings: Settings
    _engine: Engine | None
    """Set inside the app's block."""

    def _require_engine(self, call: str) -> Engine:
        """Return the engine.

        Args:
          call: what needs the engine, for messages: ``"app.start"``.

        Raises:
          RomancyError: outside of the app's block, or of the ``trio.run`` that has entered it.
          NonDeterminismError: if workflow code makes the call.
        """
        engine = self._require_open(call)
        refuse_other_run(call, engine.run)
        return engine

    def _require_open(self, call: str) -> Engine:
        """Return the engine, also in another thread, for what only reads.

        Raises:
          RomancyError: outside of the app's block.
          NonDeterminismError: if workflow code makes the call.
        """
        refuse_in_workflow(call)
        if self._engine is None:
            raise RomancyError("the app is not running: use it inside `async with App(...) as app:`")
        return self._engine

    # -- starting and awaiting -------------------------------------------------------------------------------------

    @overload
    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str, input: Any, /, *, id: str | None = None) -> WorkflowHandle[Any]: ...
    async def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance. It is durable once this returns: no crash can lose it any more.

        If the call is cancelled, the instance may or may not have been stored. With an id of your own
        (``workflow.options(id=...)``) it is safe to start it again.

        Args:
          workflow: the workflow; or its name, followed by the input as plain JSON data, and optionally ``id=...``.
          args, kwargs: arguments of the workflow after its context.

        Returns:
          The handle of the instance. If the same workflow was started before with the same id and input, it is the
          handle of that instance.

        Raises:
          InvalidInputError: naming every bad field. Nothing is stored.
          PayloadTooLargeError: if the input is larger than ``max_payload``. Nothing is stored.
          InstanceExistsError: if an instance of another workflow, or with another input, has the id.
        """
        self._require_engine("app.start")
        check = partial(self._checked_start, "app.start", workflow, args, kwargs)
        workflow, text, arguments = await encoded([args, kwargs], check)
        return await self.start_prepared(workflow, text, arguments)

    def _checked_start(
        self, call: str, workflow: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Workflow[..., Any], str, list[Any]]:
        """Return the workflow to start, and its input as JSON text and as arguments."""
        if isinstance(workflow, str):
            if len(args) != 1 or kwargs.keys() - {"id"}:
                what = f"{call}({'connection, ' if call.endswith('_in') else ''}name, input"
                raise TypeError(f"by name, a workflow is started with {what}) or {what}, id=...)")
            workflow, text, arguments = _find(workflow, *args, **kwargs)
        elif not isinstance(workflow, Workflow):
            raise TypeError(f"{call} takes a workflow made with @workflow, or its name, not {workflow!r}")
        else:
            text, arguments = workflow.input.encode(args, kwargs)
        check_input(workflow.name, text, self._settings.max_payload)
        return workflow, text, arguments

    async def start_prepared(
        self, workflow: Workflow[..., Any], text: str, arguments: list[Any]
    ) -> WorkflowHandle[Any]:
        """Start an instance with an input that has been encoded and checked."""
        engine = self._require_engine("app.start")
        instance_id = workflow.id or new_id()
        local_result = engine.local_result(instance_id)
        trace = None if engine.dispatcher is None else engine.dispatcher.trace_context(workflow.name, instance_id)
        with engine.apart_from_session("start an instance"):
            try:
                if engine.worker is not None and workflow.times is None:
                    id_is_new = workflow.id is None
                    await engine.worker.start(
                        instance_id, workflow.name, text, arguments, id_is_new=id_is_new, trace=trace
                    )
                else:
                    await engine.start_elsewhere(instance_id, workflow.name, text, trace, workflow.times)
            except InstanceExistsError as error:
                held = await engine.read(instances.get_instance, instance_id)
                if not is_same_start(workflow, text, held, error):
                    raise
        return WorkflowHandle(instance_id, self._require_engine, workflow.codec, _declared_by(workflow), local_result)

    @overload
    def handle(self, instance_id: str, result_of: Workflow[..., R], /) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, instance_id: str, result_type: type[R], /) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, instance_id: str, result_type: Any = Any, /) -> WorkflowHandle[Any]: ...
    def handle(self, instance_id: str, result_type: Any = Any, /) -> WorkflowHandle[Any]:
        """Return the handle of an instance that was started before, in this process or another.

        Args:
          instance_id: id of the instance.
          result_type: the workflow, or the type of its result: what ``result()`` of the handle returns. By default it
            is plain JSON data.

        Raises:
          TypeError: if values of the type cannot be stored.
        """
        if isinstance(result_type, Workflow):
            of, declared = result_type.codec, _declared_by(result_type)
        else:
            of, declared = codec(result_type), "which app.handle was given"
        return WorkflowHandle(instance_id, self._require_engine, of, declared, None)

    # -- schedules -------------------------------------------------------------------------------------------------

    async def schedule(
        self,
        name: str,
        workflow: Workflow[..., Any],
        /,
        *args: Any,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        exclude: Sequence[date | str] = (),
        overlap: Overlap | str = Overlap.SKIP,
        catch_up: Duration = 86_400.0,
        jitter: Duration = 0.0,
        pause_on_failure: bool = False,
    ) -> None:
        """Start a workflow again and again. The schedule is durable once this returns, and can be called again.

        A schedule of the name that is there is changed; if nothing changes, its next occurrence stays as it is.

        Args:
          name, workflow, args: as of :class:`Schedule`.
          cron, every, tz, exclude, overlap, catch_up, jitter, pause_on_failure: as of :class:`Schedule`.

        Raises:
          InvalidInputError, ValueError, TypeError: as of :class:`Schedule`. Nothing is stored.
          PayloadTooLargeError: if the input is larger than ``max_payload``. Nothing is stored.
        """
        engine = self._require_engine("app.schedule")
        made = Schedule(
            name,
            workflow,
            *args,
            cron=cron,
            every=every,
            tz=tz,
            exclude=exclude,
            overlap=overlap,
            catch_up=catch_up,
            jitter=jitter,
            pause_on_failure=pause_on_failure,
        )
        await put_schedule(engine, new_schedule(made, self._settings.max_payload))

    @property
    def schedules(self) -> Schedules:
        """The schedules in the database: to list, pause, trigger and backfill them, and more."""
        return Schedules(self._require_engine)

    # -- sending ---------------------------------------------------------------------------------------------------

    async def send_event(
        self,
        type: str,
        data: Any = None,
        *,
        source: str = DEFAULT_SOURCE,
        id: str | None = None,
        subject: str | None = None,
        to: str | None = None,
        time: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SendResult:
        """Send an event to every instance that waits for its type, now or later. It is durable once this returns.

        It reaches every instance that was started before, no matter when the instance waits for it; see
        :meth:`WorkflowContext.wait_event`. It is kept for the app's ``message_retention``.

        If the call is cancelled, the event may or may not have been stored. With an ``id`` of your own it is safe to
        send it again.

        Args:
          type: type of the event, such as ``"payment.received"``.
          data: plain JSON data, or a value of a type that can be stored.
          source: source of the event.
          id: id of the event, by default a new one. Of the events of one source and id only the first is accepted.
          subject: subject of the event.
          to: id of the one instance that can receive it; None: every instance that waits for it.
          time: time of the event, as an aware datetime; None: now.
          metadata: plain JSON data that accompany it, for workflows that receive it as a :class:`Message`.

        Raises:
          InvalidInputError: naming everything that is wrong with the event. Nothing is stored.
          PayloadTooLargeError: if the event is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        now = self._require_engine("app.send_event").clock.now()
        encode = partial(
            event_row,
            type,
            data,
            source=source,
            id=new_id() if id is None else id,
            subject=subject,
            to=to,
            time=time,
            metadata=metadata,
            now=now,
            max_payload=self._settings.max_payload,
        )
        row = await encoded([data, metadata], encode)
        return await self.send_prepared(row, is_new=id is None)

    async def send_prepared(self, row: MessageRow, *, is_new: bool = False) -> SendResult:
        """Send an event that has been encoded and checked."""
        engine = self._require_engine("app.send_event")
        row["sent_at"] = engine.clock.now()
        with engine.apart_from_session("send an event"):
            return await engine.send(Outgoing(row, is_new=is_new, must_exist=True))

    async def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, to: str | None = None
    ) -> SendResult:
        """Publish a message to a channel. It is durable once this returns, and kept for ``message_retention``.

        If the call is cancelled, the message may or may not have been stored.

        Args:
          channel: name of the channel.
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that accompany it.
          to: id of the one instance that receives it, as of :meth:`WorkflowContext.send_to`; None: the subscribers.

        Raises:
          InvalidInputError: naming everything that is wrong with the message. Nothing is stored.
          PayloadTooLargeError: if the message is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        engine = self._require_engine("app.publish")
        encode = partial(
            message_row,
            channel,
            data,
            metadata=metadata,
            to=to,
            now=engine.clock.now(),
            max_payload=self._settings.max_payload,
            id=new_id(),
        )
        row = await encoded([data, metadata], encode)
        row["sent_at"] = engine.clock.now()
        with engine.apart_from_session("publish a message"):
            return await engine.send(Outgoing(row, is_new=True, must_exist=True))

    # -- in the caller's own transaction ---------------------------------------------------------------------------

    @overload
    async def start_in(
        self, connection: Any, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start_in(
        self, connection: Any, workflow: str, input: Any, /, *, id: str | None = None
    ) -> WorkflowHandle[Any]: ...
    async def start_in(self, connection: Any, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance in the caller's own transaction: if that is rolled back, nothing was started.

        The instance is durable once the caller has committed, and is claimed then. Only the same connection sees it
        before, so await its result after the commit. The app need not be open.

        Args:
          connection: a connection or a session of SQLAlchemy (also those for asyncio), a connection of psycopg,
            asyncpg, PyMySQL, aiomysql or sqlite3, ``django.db.connection``, or what :meth:`transaction` gives. Its
            transaction is open, in the database of this app. Savepoints count. A connection that blocks does so here.
          workflow: as of :meth:`start`.
          args, kwargs: as of :meth:`start`.

        Returns:
          The handle of the instance.

        Raises:
          RomancyError: if each statement of the connection commits by itself.
          DatabaseError: if the connection is to another kind of database, or to one without the tables of this version.
          InvalidInputError, PayloadTooLargeError, InstanceExistsError: as of :meth:`start`. The transaction can go on.

        Errors of the database are those of the caller's library. After a cancellation, roll back.
        """
        joined, workflow, instance_id = self.prepare_start_in(connection, workflow, args, kwargs)
        await make_in_trio(joined)
        return WorkflowHandle(instance_id, self._require_engine, workflow.codec, _declared_by(workflow), None)

    async def send_event_in(
        self,
        connection: Any,
        type: str,
        data: Any = None,
        *,
        source: str = DEFAULT_SOURCE,
        id: str | None = None,
        subject: str | None = None,
        to: str | None = None,
        time: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SendResult:
        """Send an event in the caller's own transaction: if that is rolled back, nothing was sent.

        Messages are numbered in the order in which they are committed. So from this call until the commit, every other
        transaction that sends waits: call it last.

        Args:
          connection: as of :meth:`start_in`. On MariaDB and MySQL its isolation level is READ COMMITTED.
          type, data, source, id, subject, to, time, metadata: as of :meth:`send_event`.

        Raises: as of :meth:`start_in` and :meth:`send_event`.
        """
        return await make_in_trio(
            self.prepare_send_event_in(
                connection, type, data, source=source, id=id, subject=subject, to=to, time=time, metadata=metadata
            )
        )

    async def cancel_in(self, connection: Any, instance_id: str, reason: str | None = None) -> bool:
        """Request the cancellation of an instance in the caller's own transaction.

        The row of the instance is locked until the commit, and its worker waits for it: commit soon.

        Args:
          connection: as of :meth:`send_event_in`.
          instance_id, reason: as of :meth:`cancel`.

        Returns: as of :meth:`cancel`, if the transaction commits.

        Raises: as of :meth:`start_in` and :meth:`cancel`.
        """
        return await make_in_trio(self.prepare_cancel_in(connection, instance_id, reason))

    def transaction(self) -> AbstractAsyncContextManager[TransactionSession]:
        """Return a transaction for your own tables and for what you start, as ``async with app.transaction() as tx``.

        The session ``tx`` takes Core statements and ORM objects of SQLAlchemy, as ``current_activity().session`` does,
        and ``tx.start``, ``tx.send_event`` and ``tx.cancel`` join it. It begins with the first statement, and commits
        at the end of the block. If the block raises, it is rolled back. On SQLite it keeps all others from writing, so
        do slow things before the first statement.

        At the end of the block an error of SQLAlchemy is raised if the database refuses the commit. If the connection
        is lost just then, the transaction may have been committed all the same.
        """
        return TransactionBlock(self, self._require_engine)

    def prepare_start_in(
        self, connection: Any, workflow: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Joined[None], Workflow[..., Any], str]:
        """Check a start in a caller's transaction. Return the write to make, the workflow, and the instance id."""
        workflow, text, _ = self._checked_start("app.start_in", workflow, args, kwargs)
        instance_id = workflow.id or new_id()
        joiner = self._joiner("app.start_in")
        trace = None
        if self._engine is not None and self._engine.dispatcher is not None:
            trace = self._engine.dispatcher.trace_context(workflow.name, instance_id)
        return joiner.start(connection, workflow, instance_id, text, trace), workflow, instance_id

    def prepare_send_event_in(
        self,
        connection: Any,
        type: str,
        data: Any,
        *,
        source: str,
        id: str | None,
        subject: str | None,
        to: str | None,
        time: datetime | None,
        metadata: Mapping[str, Any] | None,
    ) -> Joined[SendResult]:
        """Check an event in a caller's transaction. Return the write to make."""
        joiner = self._joiner("app.send_event_in")
        row = event_row(
            type,
            data,
            source=source,
            id=new_id() if id is None else id,
            subject=subject,
            to=to,
            time=time,
            metadata=metadata,
            now=0,  # set by the write
            max_payload=self._settings.max_payload,
        )
        return joiner.send(connection, row)

    def prepare_cancel_in(self, connection: Any, instance_id: str, reason: str | None) -> Joined[bool]:
        """Check a request to cancel in a caller's transaction. Return the write to make."""
        joiner = self._joiner("app.cancel_in")
        steering.check_request(instance_id, reason, "cancellation")
        return joiner.cancel(connection, instance_id, reason)

    def _joiner(self, call: str) -> Joiner:
        refuse_in_workflow(call)
        engine = self._engine
        if engine is None:
            return Joiner(self._url, self._schema, None, None)
        return Joiner(self._url, self._schema, engine.clock.now, engine.notify_commit)

    # -- searching -------------------------------------------------------------------------------------------------

    async def get_instance(self, instance_id: str) -> Instance | None:
        """Return an instance as the database shows it now; None if no instance has the id."""
        engine = self._require_engine("app.get_instance")
        instance = await engine.read(instances.get_instance, instance_id) if is_id(instance_id) else None
        return None if instance is None else await finding.with_waits(engine, instance)

    async def list_instances(
        self,
        *,
        workflow: str | None = None,
        status: Status | Collection[Status] | None = None,
        instance_id: str | None = None,
        parent: str | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        page_token: str | None = None,
    ) -> InstancePage:
        """Return one page of the instances that match all arguments, the newest first.

        The pages neither skip nor repeat an instance that was there at the first one, even if others are started
        meanwhile.

        Args:
          workflow: a part of the workflow's name. Workflows that this process does not define are found, too.
          status: a status, or several of which the instance has one.
          instance_id: a part of the instance id.
          parent: id of the instance that started it as a child.
          created_from, created_before: aware datetimes between which the instance was started.
          limit: most instances on the page.
          page_token: token of the next page, from the page before. The other arguments must be the same.

        Raises:
          InvalidInputError: if the page token is not valid.
          ValueError: if a datetime has no time zone, a status does not exist, or the limit is not positive.
        """
        engine = self._require_engine("app.list_instances")
        check_numbers(limit=limit)
        sought = search.Sought(
            workflow=workflow,
            instance_id=instance_id,
            statuses=as_statuses(status),
            parent=parent,
            created_from=None if created_from is None else from_datetime(created_from),
            created_before=None if created_before is None else from_datetime(created_before),
        )
        return await finding.page(engine, sought, limit, page_token)

    async def find_instances(
        self,
        where: Where,
        *,
        workflow: str | None = None,
        status: Status | Collection[Status] | None = None,
        limit: int = 100,
        page_token: str | None = None,
    ) -> InstancePage:
        """Return one page of the instances whose input has certain values, the newest first.

        A path leads into the input as it is stored: ``"customer.id"``, ``"items.0.sku"``. A whole number addresses an
        element of an array, and a key of an object. Values are compared exactly: text with its case, numbers as numbers
        (1 equals 1.0, and is neither ``"1"`` nor true), null as a null that is there. Every database finds the same.

        Without an index (see :meth:`index_input`) the instances are searched one after the other, in short
        transactions. If the call is cancelled, it ends after one of these.

        Args:
          where: values by path, or pairs of a path and a value. A key that contains a dot, or is empty, is addressed by
            a path that is a tuple: ``("customer.id", "x")``.
          workflow, status: as of :meth:`list_instances`.
          limit, page_token: as of :meth:`list_instances`.

        Raises:
          InvalidInputError: naming each path that is not valid, and each value that is not text, a number, true, false
            or None; or if the page token is not valid.
          ValueError: if a status does not exist, or the limit is not positive.
        """
        engine = self._require_engine("app.find_instances")
        check_numbers(limit=limit)
        sought = search.Sought(workflow=workflow, statuses=as_statuses(status), conditions=checked_where(where))
        return await finding.page(engine, sought, limit, page_token)

    async def index_input(self, path: GivenPath) -> bool:
        """Make an index for conditions of :meth:`find_instances` on this path, unless there is one. The index stays.

        Several apps can call this at once. Other apps can run meanwhile, but on SQLite they cannot write. It takes some
        ten seconds for a million instances. If the call is cancelled, or the process dies, the next call completes the
        index.

        Args:
          path: as of :meth:`find_instances`.

        Returns:
          Whether there is an index now. False if this database cannot make one for the path.

        Raises:
          InvalidInputError: if the path is not valid.
          DatabaseError: if the database refuses, for example because the user lacks a privilege.
        """
        engine = self._require_engine("app.index_input")
        with engine.apart_from_session("make an index"):
            return await finding.index_input(engine, path)

    async def history(
        self, instance_id: str, *, limit: int | None = None, page_token: str | None = None
    ) -> JournalPage:
        """Return the journal of an instance, in order, or one page of it.

        Args:
          instance_id: id of the instance.
          limit: most entries on the page; None: all that follow.
          page_token: token of the next page, from the page before.

        Raises:
          InstanceNotFoundError: if there is no such instance.
          InvalidInputError: if the page token is not valid.
          ValueError: if the limit is not positive.
        """
        engine = self._require_engine("app.history")
        check_instance_id(instance_id)
        if limit is not None:
            check_numbers(limit=limit)
        return await finding.journal_page(engine, instance_id, limit, page_token)

    async def limits(self) -> list[LimitInfo]:
        """List the limits that workers have stored, in the order of their names."""
        return await stored_limits(self._require_engine("app.limits"))

    async def set_limit(self, name: str, *, concurrent: float | None = None, rate: Rate | None = None) -> None:
        """Change a limit, for all workers, from now on. Attempts that run already go on.

        Arguments that are not given stay as they are. From then on, what the code says about the limit does not count.

        Args:
          name: name of the limit.
          concurrent: most attempts that run at the same time. 0 holds all back, ``math.inf`` allows any number.
          rate: how many attempts may begin in a period.

        Raises:
          InvalidInputError: if no worker has stored a limit of that name.
          DefinitionError: if an argument is not valid.
        """
        await set_limit(self._require_engine("app.set_limit"), name, concurrent, rate)

    async def list_workers(self) -> list[WorkerInfo]:
        """Return the workers on this database, in the order of their ids.

        A dead worker is among them until another worker has ended its lease.
        """
        engine = self._require_engine("app.list_workers")
        return await engine.read(workers.list_workers, engine.clock.now())

    @property
    def outbox(self) -> Outbox:
        """The outbox: events that activities have sent, on their way to the broker."""
        return Outbox(self._require_engine)

    # -- steering --------------------------------------------------------------------------------------------------

    async def cancel(self, instance_id: str, reason: str | None = None) -> bool:
        """Request the cancellation of an instance. The request is durable once this returns.

        The workflow function is cancelled, running activities go on to their outcome, and all completed activities are
        compensated. The workflow function never goes on.

        Args:
          instance_id: id of the instance.
          reason: a text that :class:`WorkflowCancelledError` shows.

        Returns:
          Whether the instance will end as cancelled, or has. False if its workflow function had ended before; then that
          outcome counts.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return await steering.cancel(self._require_engine("app.cancel"), instance_id, reason)

    async def terminate(self, instance_id: str, reason: str | None = None, *, compensate: bool = False) -> bool:
        """End an instance that does not end by itself. The request is durable once this returns.

        Use it if :meth:`cancel` does not end the instance, because its code hangs, swallows cancellations, or is stuck.
        Running code is abandoned: it is cancelled, and nothing that it does from then on is recorded. So the outcome
        of an activity or compensation that was running is not known. If the instance has recurred, this applies to the
        last one of its chain. Children that have not ended are terminated as well.

        An instance that no worker owns ends at once, and so does one whose worker is seen to be dead on this machine.
        Otherwise its worker ends it, or the next worker that claims it.
        It ends as cancelled; waiting for its result raises :class:`WorkflowTerminatedError`.

        Args:
          instance_id: id of the instance.
          reason: a text that :class:`WorkflowTerminatedError` shows.
          compensate: whether the activities and children that had completed are compensated, and running children
            cancelled instead of terminated. If not, ``error.uncompensated`` names what was not undone, and
            :meth:`resume` undoes it.

        Returns:
          Whether the instance ends because of this call, or was terminated before. False if it had ended otherwise.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return await steering.terminate(
            self._require_engine("app.terminate"), instance_id, reason, compensate=compensate
        )

    async def resume(self, instance_id: str) -> bool:
        """Let a stuck instance go on, or try compensations that failed for good again. It is durable once this returns.

        If the instance has recurred, this applies to the last one of its chain.

        Returns:
          Whether there was something to resume.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return await steering.resume(self._require_engine("app.resume"), instance_id)

    async def retry(self, instance_id: str) -> bool:
        """Start a failed instance again from its first failed operation. It is durable once this returns.

        If the instance has recurred, this applies to the last one of its chain.

        Successful outcomes are kept, including those from beside or after that operation, and children that have
        completed. A child that failed is retried with its parent, and so is one that was cancelled because the parent
        failed. If no operation has failed, but the code of the workflow, that code runs again.

        Returns:
          Whether the instance had failed.

        Raises:
          InstanceNotFoundError: if there is no such instance.
          RomancyError: if something was compensated; if a child was cancelled by others; or if the instance is a child
            whose parent has not ended.
        """
        return await steering.retry(self._require_engine("app.retry"), instance_id)

    async def purge(
        self,
        *,
        older_than: Duration,
        status: Status | Collection[Status] | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> int:
        """Delete instances that have ended, with their journals. Events that they sent stay in the :attr:`outbox`.

        Each transaction deletes some hundred instances, each of them as a whole, and workers can run meanwhile. A child
        stays until its parent has ended, and the first instance of a chain until the last one has. If the call is
        cancelled, it ends after one of the transactions, and their deletions stay.

        Args:
          older_than: seconds (or a timedelta) since the end of the instance.
          status: a final status, or several; None: all final ones.
          on_batch: called after each transaction with the number of instances that it has deleted.

        Returns:
          The number of deleted instances.

        Raises:
          ValueError: if a status is not final, or the duration is negative.
        """
        engine = self._require_engine("app.purge")
        with engine.apart_from_session("purge instances"):
            return await purging.purge(engine, older_than, status, on_batch)


def _declared_by(workflow: Workflow[..., Any]) -> str:
    return f"which workflow {workflow.name!r} returns in this process"


def _find(name: str, input: Any, *, id: str | None = None) -> tuple[Workflow[..., Any], str, list[Any]]:
    workflow = registry.find_workflow(name)
    if workflow is None:
        known = ", ".join(sorted(registry.workflow_names())) or "none"
        raise InvalidInputError(
            f"workflow {name!r} cannot be started",
            [DataProblem("$", f"no workflow of that name is defined in this process (defined: {known})")],
        )
    return workflow if id is None else workflow.options(id=id), *workflow.input.check(input)
