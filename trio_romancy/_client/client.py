"""What an app does for whoever is outside of its workflows: start, send, look and steer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, overload

from .._data.conditions import GivenPath, Where, checked_where
from .._data.ids import is_id, new_id
from .._definitions.registry import registry
from .._definitions.values import Workflow
from .._outbox.view import Outbox
from .._settings import Settings, as_statuses, check_numbers
from .._storage.outgoing import DEFAULT_SOURCE, event_row, message_row
from .._storage.sql import instances, search, workers
from .._storage.sql.messages import Outgoing
from ..clock import Duration, from_datetime
from ..errors import InstanceNotFoundError, InvalidInputError, PayloadTooLargeError, Problem, RomancyError
from ..model import Entry, Instance, Page, Sent, Status, WorkerInfo
from . import purge as purging
from . import search as finding
from . import steering
from .engine import Engine, check_instance_id
from .handle import WorkflowHandle

P = ParamSpec("P")
R = TypeVar("R")


class Client:
    """The half of an :class:`App` that needs no worker in its own process."""

    _settings: Settings
    _engine: Engine | None
    """Inside of the app's block."""

    def _require_engine(self) -> Engine:
        """Return the engine.

        Raises:
          RomancyError: outside of the app's block.
        """
        if self._engine is None:
            raise RomancyError("the app is not running: use it inside `async with App(...) as app:`")
        return self._engine

    # -- starting and awaiting -------------------------------------------------------------------------------------

    @overload
    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str, input: Any, /, *, id: str | None = None) -> WorkflowHandle[Any]: ...
    async def start(self, workflow: Workflow[..., Any] | str, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance. It is durable once this returns: a crash from here on does not lose it.

        If the call is cancelled the instance may or may not have been stored; with an id of your own
        (``workflow.options(id=...)``) it is safe to start it again.

        Args:
          workflow: the workflow; or its name, and then the input as plain JSON data, and ``id=...`` if it shall have
            an id of its own.
          args, kwargs: what the workflow takes after its context.

        Raises:
          InvalidInputError: naming every bad field. Nothing is stored.
          PayloadTooLargeError: if the input is larger than ``max_payload``. Nothing is stored.
          InstanceExistsError: if the id is taken by another workflow or input. With the same, it is the same
            instance, and its handle is returned.
        """
        engine = self._require_engine()
        if isinstance(workflow, str):
            if len(args) != 1 or kwargs.keys() - {"id"}:
                raise TypeError(
                    "by name, a workflow is started with app.start(name, input) or app.start(name, input, id=...)"
                )
            workflow, text, arguments = _find(workflow, *args, **kwargs)
        elif not isinstance(workflow, Workflow):
            raise TypeError(f"app.start takes a workflow made with @workflow, or its name, not {workflow!r}")
        else:
            text, arguments = workflow.input.encode(args, kwargs)
        if len(text) > self._settings.max_payload:
            raise PayloadTooLargeError(
                f"the input of workflow {workflow.name!r} is {len(text)} bytes of JSON, and max_payload is "
                f"{self._settings.max_payload}; store it elsewhere and pass a reference"
            )
        engine.refuse_in_open_session("start an instance")
        instance_id = workflow.id or new_id()
        local_result = engine.local_result(instance_id)
        trace = None if engine.dispatcher is None else engine.dispatcher.trace_context(workflow.name, instance_id)
        if engine.worker is not None:
            id_is_new = workflow.id is None
            await engine.worker.start(instance_id, workflow.name, text, arguments, id_is_new=id_is_new, trace=trace)
        else:
            await engine.start_elsewhere(instance_id, workflow.name, text, trace)
        return WorkflowHandle(instance_id, self._require_engine, workflow, local_result)

    def handle(self, instance_id: str) -> WorkflowHandle[Any]:
        """The handle of an instance that was started before, in this process or another."""
        return WorkflowHandle(instance_id, self._require_engine, None, None)

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
    ) -> Sent:
        """Send an event to every instance that waits for its type, or will. It is durable once this returns.

        It reaches each instance that was started before, whenever that comes to wait for it; see
        :meth:`WorkflowContext.wait_event`. It is kept for the app's ``message_retention``.

        If the call is cancelled the event may or may not have been stored; with an ``id`` of your own it is safe to
        send it again.

        Args:
          type: what has happened.
          data: plain JSON data, or a value of a type that can be stored.
          source: who says so.
          id: of the event; one of the same source and id is accepted only once. By default a new one.
          subject: what it has happened to.
          to: the one instance that it is for, in vain if that has ended; None: every one that waits for it.
          time: when it has happened, as an aware datetime; None: now.
          metadata: plain JSON data that go with it, for those who receive it as a :class:`Message`.

        Raises:
          InvalidInputError: naming everything that is wrong with it. Nothing is stored.
          PayloadTooLargeError: if it is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        engine = self._require_engine()
        row = event_row(
            type,
            data,
            source=source,
            id=new_id() if id is None else id,
            subject=subject,
            to=to,
            time=time,
            metadata=metadata,
            now=engine.clock.now(),
            max_payload=self._settings.max_payload,
        )
        engine.refuse_in_open_session("send an event")
        return await engine.send(Outgoing(row, is_new=id is None, must_exist=True))

    async def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, to: str | None = None
    ) -> Sent:
        """Publish a message to a channel. It is durable once this returns, and kept for ``message_retention``.

        If the call is cancelled the message may or may not have been stored.

        Args:
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that go with it.
          to: the one instance that it is for, as with :meth:`WorkflowContext.send_to`; None: whoever subscribes.

        Raises:
          InvalidInputError: naming everything that is wrong with it. Nothing is stored.
          PayloadTooLargeError: if it is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        engine = self._require_engine()
        row = message_row(
            channel,
            data,
            metadata=metadata,
            to=to,
            now=engine.clock.now(),
            max_payload=self._settings.max_payload,
            id=new_id(),
        )
        engine.refuse_in_open_session("publish a message")
        return await engine.send(Outgoing(row, is_new=True, must_exist=True))

    # -- looking ---------------------------------------------------------------------------------------------------

    async def get_instance(self, instance_id: str) -> Instance | None:
        """The instance as the database shows it now; None if there is none."""
        engine = self._require_engine()
        return await engine.read(instances.get_instance, instance_id) if is_id(instance_id) else None

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
    ) -> Page:
        """Instances of this and all other workers, the newest first. They match all that is given.

        While instances are being started, going on from page to page neither skips nor repeats one that was there.

        Args:
          workflow: a part of the workflow's name. Also workflows that this process does not know are found.
          status: a status, or several of which it has one.
          instance_id: a part of the instance id.
          parent: the id of the instance that started it as a child.
          created_from, created_before: aware datetimes between which it was started.
          limit: the most instances on the page.
          page_token: of the page before, with all else as it was there.

        Raises:
          InvalidInputError: if the page token is none.
          ValueError: if a datetime has no time zone, a status is none, or the limit is not positive.
        """
        engine = self._require_engine()
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
    ) -> list[Instance]:
        """The newest instances whose input holds certain values. They match all that is given.

        A path leads into the input as it is stored: ``"customer.id"``, ``"items.0.sku"``. A whole number addresses an
        element where there is an array, and a key where there is an object. Values are compared exactly: text with its
        case, numbers as numbers (1 equals 1.0, and is neither ``"1"`` nor true), null as a null that is there. Every
        database finds the same.

        What no index serves (see :meth:`index_input`) is looked for from instance to instance, in short transactions.
        If the call is cancelled, it ends after one of these.

        Args:
          where: values by path, or pairs of a path and a value. A key that has a dot in it, or is empty, is addressed
            by a path that is a tuple: ``("customer.id", "x")``.
          workflow, status: as in :meth:`list_instances`.
          limit: the most instances to find.

        Raises:
          InvalidInputError: naming each path that is none, and each value that is not text, a number, true, false or
            None.
          ValueError: if a status is none, or the limit is not positive.
        """
        engine = self._require_engine()
        check_numbers(limit=limit)
        sought = search.Sought(workflow=workflow, statuses=as_statuses(status), conditions=checked_where(where))
        return await finding.newest(engine, sought, limit)

    async def index_input(self, path: GivenPath) -> bool:
        """Make :meth:`find_instances` fast for conditions on this path, if it is not already. The index stays.

        Several apps can call it at once, and others can run meanwhile; on SQLite they cannot write. Among a million
        instances it takes some ten seconds. If the call is cancelled or dies, the next one completes what it has begun.

        Args:
          path: as in :meth:`find_instances`.

        Returns:
          Whether there is an index now. False if this database cannot make one for the path.

        Raises:
          InvalidInputError: if the path is none.
          DatabaseError: if the database refuses, such as for want of a right.
        """
        engine = self._require_engine()
        engine.refuse_in_open_session("make an index")
        return await finding.index_input(engine, path)

    async def history(self, instance_id: str) -> list[Entry]:
        """The journal of an instance, in order.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        engine = self._require_engine()
        check_instance_id(instance_id)
        entries = await engine.read(instances.load_history, instance_id)
        if not entries and await engine.read(instances.get_instance, instance_id) is None:
            raise InstanceNotFoundError(instance_id)
        return entries

    async def list_workers(self) -> list[WorkerInfo]:
        """The workers on this database, in the order of their ids.

        Those that are alive are among them, and dead ones whose lease nobody has ended yet.
        """
        engine = self._require_engine()
        return await engine.read(workers.list_workers, engine.clock.now())

    @property
    def outbox(self) -> Outbox:
        """The events that activities have sent, on their way to the broker."""
        return Outbox(self._require_engine)

    # -- steering --------------------------------------------------------------------------------------------------

    async def cancel(self, instance_id: str, reason: str | None = None) -> bool:
        """Ask for an instance's cancellation. The request is durable once this returns.

        The workflow function is cancelled, activities that run go on to their outcome, and everything that completed
        is compensated. The instance never runs forward again.

        Returns:
          Whether the instance will end as cancelled (or has). False if its workflow function had ended before, which
          then counts.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return await steering.cancel(self._require_engine(), instance_id, reason)

    async def resume(self, instance_id: str) -> bool:
        """Set a stuck instance going again, or try again the compensations that failed for good.

        Of instances that recurred, the id of any means the last.

        Returns:
          Whether there was something to resume.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return await steering.resume(self._require_engine(), instance_id)

    async def retry(self, instance_id: str) -> bool:
        """Have a failed instance start again from its first failed operation.

        Of instances that recurred, the id of any means the last.

        What had succeeded is kept, also what succeeded beside or after that operation. A child that failed is retried
        with its parent. If no operation has failed, but the workflow's own code, that runs again.

        Returns:
          Whether it had failed.

        Raises:
          InstanceNotFoundError: if there is no such instance.
          RomancyError: if something was compensated, so that it cannot be kept; or if it is a child whose parent has
            not ended.
        """
        return await steering.retry(self._require_engine(), instance_id)

    async def purge(
        self,
        *,
        older_than: Duration,
        status: Status | Collection[Status] | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> int:
        """Delete instances that have ended, with their journals. Events that they sent stay in the :attr:`outbox`.

        They are deleted some hundred at a time, each of them as a whole or not at all, and workers can run meanwhile. A
        child stays for as long as its parent has not ended, and so does the first instance of a chain that goes on. If
        the call is cancelled, what was deleted until then is.

        Args:
          older_than: seconds (or a timedelta) since they have ended.
          status: a status that ends an instance, or several; None: all of these.
          on_batch: is told after each transaction how many it has deleted.

        Returns:
          How many were deleted.

        Raises:
          ValueError: if an instance with the status has not ended, or the duration is negative.
        """
        engine = self._require_engine()
        engine.refuse_in_open_session("purge instances")
        return await purging.purge(engine, older_than, status, on_batch)


def _find(name: str, input: Any, *, id: str | None = None) -> tuple[Workflow[..., Any], str, list[Any]]:
    workflow = registry.find_workflow(name)
    if workflow is None:
        known = ", ".join(sorted(registry.workflow_names())) or "none"
        raise InvalidInputError(
            f"workflow {name!r} cannot be started",
            [Problem("$", f"no workflow of that name is defined in this process (defined: {known})")],
        )
    return workflow if id is None else workflow.options(id=id), *workflow.input.check(input)
