"""``app.transaction()``: one transaction for the caller's own tables and for what the caller starts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import trio

from .._definitions.values import Workflow
from .._storage.outgoing import DEFAULT_SOURCE
from .._storage.session import Session
from .._storage.session_owner import BlockOwner
from ..model import SendResult
from .engine import Engine, open_block
from .handle import WorkflowHandle

P = ParamSpec("P")
R = TypeVar("R")


class _Client(Protocol):
    @property
    def start_in(self) -> Callable[..., Awaitable[WorkflowHandle[Any]]]: ...
    @property
    def send_event_in(self) -> Callable[..., Awaitable[SendResult]]: ...
    @property
    def cancel_in(self) -> Callable[..., Awaitable[bool]]: ...


class TransactionSession(Session):
    """The session of :meth:`App.transaction`: a :class:`Session` that can also start, send and cancel."""

    def __init__(self, client: _Client, engine: Engine) -> None:
        super().__init__(engine.database, BlockOwner())
        self._client = client

    @overload
    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str, input: Any, /, *, id: str | None = None) -> WorkflowHandle[Any]: ...
    async def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance if and only if the block commits. Await its result after the block.

        Args, Raises: as of :meth:`App.start_in`.
        """
        return await self._client.start_in(self, workflow, *args, **kwargs)

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
        """Send an event if and only if the block commits. Call it last: other transactions that send wait for this one.

        Args, Raises: as of :meth:`App.send_event_in`.
        """
        return await self._client.send_event_in(
            self, type, data, source=source, id=id, subject=subject, to=to, time=time, metadata=metadata
        )

    async def cancel(self, instance_id: str, reason: str | None = None) -> bool:
        """Request the cancellation of an instance if and only if the block commits.

        Args, Returns, Raises: as of :meth:`App.cancel_in`.
        """
        return await self._client.cancel_in(self, instance_id, reason)


class TransactionBlock(AbstractAsyncContextManager[TransactionSession]):
    """The block of a transaction, which commits at its end.

    No generator: :mod:`contextlib` assigns to the exceptions that leave its block, which frozen ones refuse.
    """

    def __init__(self, client: _Client, require_engine: Callable[[str], Engine]) -> None:
        self._client = client
        self._require_engine = require_engine
        self._session: TransactionSession
        self._outer: Session | None
        self._apart: AbstractContextManager[None]

    async def __aenter__(self) -> TransactionSession:
        engine = self._require_engine("app.transaction")
        self._apart = engine.apart_from_session("open a transaction")
        self._apart.__enter__()
        self._session = TransactionSession(self._client, engine)
        self._outer = open_block.get()
        open_block.set(self._session)
        return self._session

    async def __aexit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        session = self._session
        open_block.set(self._outer)
        try:
            if error is None and session.is_open:
                await session.finish()
                # Once the commit has begun, only the answer of the database ends it.
                with trio.CancelScope(shield=True):
                    try:
                        await session.commit_with(lambda _: None)
                    finally:
                        session.notify_committed()  # also if there was no answer
        finally:
            self._apart.__exit__(None, None, None)
            await session.aclose()
