"""The context of a running activity: :class:`ActivityContext`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol

import trio
from attrs import define, field

from .._data.ids import short_id
from .._data.start_times import StartTimes
from .._storage.database import Database
from .._storage.journal.effects import Effects
from .._storage.outgoing import DEFAULT_SOURCE, check_input, event_row, message_row
from .._storage.session import Session
from .._storage.session_owner import AttemptOwner
from .._storage.sql.instances import new_row as new_instance
from .._storage.sql.messages import Outgoing
from .._storage.sql.outbox import new_row
from .._storage.sql.starts import start_for_any_worker
from ..clock import Clock
from ..errors import RomancyError
from .details import details_text

P = ParamSpec("P")

_first_use = threading.Lock()
"""Held while a part of a context is made. Threads of one activity may ask for it at once."""


class _Input(Protocol):
    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> tuple[str, list[Any]]: ...


class StartableWorkflow(Protocol[P]):
    """A workflow, as an activity that starts it sees it: one made with :func:`workflow`."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str | None: ...
    @property
    def times(self) -> StartTimes | None: ...
    @property
    def function(self) -> Callable[Concatenate[Any, P], Any]: ...
    @property
    def input(self) -> _Input: ...


class _Settings(Protocol):
    @property
    def max_payload(self) -> int: ...


class ActivityEnvironment(Protocol):
    """The parts of a worker that a running activity uses."""

    @property
    def database(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def settings(self) -> _Settings: ...


class ActivityRun(Protocol):
    """The run of the instance that an activity runs for, as the activity's context sees it."""

    @property
    def env(self) -> ActivityEnvironment: ...
    def set_details(self, text: str, /) -> None:
        """Store the details of the instance, unless the run is gone."""
        ...

    def awaits_instances(self, by: int, /) -> None:
        """Count one activity more (1), or one fewer (-1), that awaits other instances."""
        ...

    def something_is_due(self, *, has_deadline: bool = False) -> None:
        """Claim what this run has made due."""
        ...


@define(eq=False)
class ActivityContext:
    """Context of an activity (or a compensation) that runs for a workflow. Get it by :func:`current_activity`."""

    instance_id: str
    """Instance that the activity runs for."""
    activity_id: str
    """Operation id of the activity, such as ``"process_payment:1"``."""
    attempt: int
    """Number of this attempt, from 1."""
    workflow: str
    """Name of the workflow of that instance."""
    _run: ActivityRun = field(repr=False)
    effects: Effects | None = field(default=None, init=False, repr=False)
    """Messages and events that are sent if the attempt succeeds; None without any."""
    used_session: Session | None = field(default=None, init=False, repr=False)
    """The session; None: this attempt has not used :attr:`session`."""
    has_ended: bool = field(default=False, init=False, repr=False)
    """Whether the attempt has ended. A thread or a task that it has left behind may still have the context."""
    _started: int = field(default=0, init=False, repr=False)
    """Number of instances that the attempt has started without an id of their own."""
    _awaited: int = field(default=0, init=False, repr=False)
    """Number of instances that the activity awaits now."""

    @property
    def idempotency_key(self) -> str:
        """A key that is the same in all attempts and after restarts, and different for every other operation.

        Pass it to outside services, so that they recognise an attempt that is repeated after a crash.
        """
        return f"{self.instance_id}:{self.activity_id}"

    @property
    def session(self) -> Session:
        """A transaction in the database of the app, which begins with the first statement.

        It commits together with the activity's journal entry: its changes are made exactly once. It is rolled back if
        the attempt fails. All tasks and threads of the activity share it, and may use it at once.
        """
        session = self.used_session
        if session is None:
            with _first_use:
                session = self.used_session
                if session is None:
                    session = Session(
                        self._run.env.database, AttemptOwner(self.instance_id, self.activity_id, self.workflow)
                    )
                    self.used_session = session
            if self.has_ended:
                session.end()
        return session

    async def start(self, workflow: StartableWorkflow[P], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Start an instance if and only if this attempt succeeds, so once per activity.

        It is stored in the transaction of :attr:`session`, and is no child: it goes on whatever becomes of this one. A
        plain ``def`` activity calls this through :func:`trio.from_thread.run`.

        Args:
          workflow: the workflow. Without an id (``workflow.options(id=...)``), the id is made of this instance, the
            activity, and a number.
          args, kwargs: arguments of the workflow after its context.

        Returns:
          The id of the instance. Await its result elsewhere, by ``app.handle(id)``: no worker sees it before the
          activity has returned.

        Raises:
          InvalidInputError: naming every bad field.
          PayloadTooLargeError: if the input is larger than the app's ``max_payload``.
          InstanceExistsError: if an instance of another workflow, or with another input, has the id.
          RomancyError: if the attempt has ended.
        """
        self._refuse_if_ended("start")
        text, _ = workflow.input.encode(args, kwargs)
        check_input(workflow.name, text, self._run.env.settings.max_payload)
        id = workflow.id
        if id is None:
            self._started += 1
            id = short_id(f"{self.idempotency_key}:{self._started}")
        row = new_instance(id, workflow.name, text, self._run.env.clock.now(), owner=None, times=workflow.times)
        session = self.session
        await session.run_sync(lambda sync: start_for_any_worker(sync.connection(), row))
        session.after_commit(partial(self._run.something_is_due, has_deadline=workflow.times is not None))
        return id

    def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, to: str | None = None
    ) -> None:
        """Publish a message to a channel, exactly once, if and only if this attempt succeeds.

        The transaction that records the activity's outcome stores it. Plain ``def`` activities can call this, too.

        Args:
          channel: name of the channel.
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that accompany it.
          to: id of the one instance that receives it; None: the subscribers.

        Raises:
          InvalidInputError: naming everything that is wrong with the message.
          PayloadTooLargeError: if the message is larger than the app's ``max_payload``.
          RomancyError: if the attempt has ended.
        """
        self._refuse_if_ended("publish")
        row = message_row(
            channel,
            data,
            metadata=metadata,
            to=to,
            now=self._run.env.clock.now(),
            max_payload=self._run.env.settings.max_payload,
            sender=self.instance_id,
        )
        self._use_effects().outgoing.append(Outgoing(row))

    def send_event(
        self,
        type: str,
        data: Any,
        *,
        source: str = DEFAULT_SOURCE,
        subject: str | None = None,
        id: str | None = None,
    ) -> str:
        """Send an event to the broker if and only if this attempt succeeds: the transactional outbox.

        The transaction that records the activity's outcome stores it. From there it is posted to the app's
        ``broker_url``: at least once, under the same id each time, in order with the other events of the instance.
        Plain ``def`` activities can call this, too.

        Args:
          type: type of the event.
          data: plain JSON data, or a value of a type that can be stored.
          source: source of the event.
          subject: subject of the event.
          id: id of the event, by default made of the instance, the activity, and a number.

        Returns:
          The id of the event.

        Raises:
          InvalidInputError: naming everything that is wrong with the event.
          PayloadTooLargeError: if the event is larger than the app's ``max_payload``.
          RomancyError: if the attempt has ended.
        """
        self._refuse_if_ended("send_event")
        effects, now = self._use_effects(), self._run.env.clock.now()
        if id is None:
            id = short_id(f"{self.idempotency_key}:{len(effects.outbox) + 1}")
        event = event_row(
            type,
            data,
            source=source,
            id=id,
            subject=subject,
            to=None,
            time=None,
            metadata=None,
            now=now,
            max_payload=self._run.env.settings.max_payload,
        )
        row = new_row(
            instance_id=self.instance_id,
            seq=0,
            number=0,
            event_id=id,
            source=source,
            type=type,
            subject=subject,
            time=now,
            data_text=event["data"],
            now=now,
        )
        effects.outbox.append(row)
        return id

    def set_details(self, value: Any) -> None:
        """Show operators how far the activity is, as :attr:`Instance.details`, at once and whether or not it succeeds.

        It is for people, like :meth:`WorkflowContext.set_details`, and replaces what that has set. Plain ``def``
        activities can call this, too.

        Args:
          value: plain JSON data, or a value of a type that can be stored, of at most 16 KiB of JSON.

        Raises:
          InvalidDataError: if the value cannot be stored.
          PayloadTooLargeError: if it is too large.
          RomancyError: if the attempt has ended.
        """
        self._refuse_if_ended("set_details")
        text = details_text(self.instance_id, value, "set_details")
        if trio.lowlevel.in_trio_task():
            self._run.set_details(text)
        else:
            trio.from_thread.run_sync(self._run.set_details, text)

    @contextmanager
    def awaiting_instance(self) -> Iterator[None]:
        """Tell the worker that the activity awaits an instance in this block, and needs no place of ``max_running``."""
        self._awaited += 1
        if self._awaited == 1:
            self._run.awaits_instances(1)
        try:
            yield
        finally:
            self._awaited -= 1
            if self._awaited == 0:
                self._run.awaits_instances(-1)

    def _use_effects(self) -> Effects:
        if self.effects is None:
            with _first_use:
                if self.effects is None:
                    self.effects = Effects()
        return self.effects

    def _refuse_if_ended(self, call: str) -> None:
        """Refuse what could not be sent any more.

        Raises:
          RomancyError: if the attempt has ended.
        """
        if self.has_ended:
            raise RomancyError(
                f"instance {self.instance_id!r}: {call} is called after the end of its attempt of activity "
                f"{self.activity_id!r}, by a thread or a task that the attempt has left behind; nothing is sent; give "
                f"what the thread calls a time limit below the activity's timeout, and await every task"
            )
