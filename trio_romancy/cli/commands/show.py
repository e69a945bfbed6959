"""``show``: one instance and its journal, once or live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import trio
from typer import Option

from ...app import App
from ...errors import InstanceNotFoundError
from ...model import Entry, Instance, Status
from ..arguments import read_limit
from ..call import Call
from ..failures import StopError
from ..options import InstanceIds
from ..several import for_each
from ..terminal.wording import count, short_json

_SHORTEST_INTERVAL = 0.05
"""Seconds between two reads."""


async def show(
    call: Call,
    instance_ids: InstanceIds,
    watch: Annotated[bool, Option("--watch", help="Show changes until it has ended, or is stuck.")] = False,
    interval: Annotated[str, Option(help="Time between two reads: 0.5 (seconds), 30s, 2m.", metavar="DURATION")] = "1s",
    in_full: Annotated[bool, Option("--full", help="Show whole payloads and tracebacks.")] = False,
) -> int:
    """Show an instance, and its journal as a timeline.

    A line of the timeline has the time since the start, the kind of entry, and the operation. Compensations are marked.
    """
    if watch and len(instance_ids) > 1:
        raise StopError("--watch shows one instance")
    pause = read_limit(interval)
    if pause < _SHORTEST_INTERVAL:
        raise StopError(f"the interval is at least {_SHORTEST_INTERVAL} s, not {interval}")
    async with call.open_app() as app:
        if watch:
            await _watch(call, app, instance_ids[0], pause, in_full)
            return 0

        async def one(id: str) -> tuple[Any, Callable[[], object], int]:
            instance, entries = await _read(app, id)
            return {"instance": instance, "history": entries}, lambda: _show(call, instance, entries, in_full), 0

        return await for_each(call, instance_ids, one)


def _show(call: Call, instance: Instance, entries: list[Entry], in_full: bool) -> None:
    from ..terminal.instances import show_instance
    from ..terminal.timeline import Timeline

    show_instance(call.screen, instance, in_full=in_full)
    call.screen.line((f"journal: {count(len(entries), 'entry')}", "dim"))
    Timeline(call.screen, instance.created_at, in_full=in_full).add(entries)


async def _read(app: App, instance_id: str) -> tuple[Instance, list[Entry]]:
    # The instance first: the journal of an instance that has ended is complete.
    instance = await app.get_instance(instance_id)
    if instance is None:
        raise InstanceNotFoundError(instance_id)
    return instance, (await app.history(instance_id)).entries


async def _watch(call: Call, app: App, instance_id: str, interval: float, in_full: bool) -> None:
    """Write what is new after each read. No line is written again, so the output suits any terminal or file."""
    last: Instance | None = None
    seen = 0
    report = _JsonLines(call) if call.as_json else _Report(call, in_full)
    while True:
        instance, entries = await _read(app, instance_id)
        new = [entry for entry in entries if entry.seq > seen]
        seen = max((entry.seq for entry in entries), default=seen)
        report.add(last, instance, new)
        if instance.status.is_final or instance.status is Status.STUCK:
            return
        last = instance
        await trio.sleep(interval)


class _JsonLines:
    def __init__(self, call: Call) -> None:
        self._call = call

    def add(self, last: Instance | None, instance: Instance, new: list[Entry]) -> None:
        for entry in new:
            self._call.add_line({"entry": entry})
        if instance != last:
            self._call.add_line({"instance": instance})


class _Report:
    def __init__(self, call: Call, in_full: bool) -> None:
        self._screen = call.screen
        self._in_full = in_full

    def add(self, last: Instance | None, instance: Instance, new: list[Entry]) -> None:
        from ..terminal.instances import show_instance, styled
        from ..terminal.timeline import Timeline

        has_ended = instance.status.is_final or instance.status is Status.STUCK
        if last is None and not has_ended:
            show_instance(self._screen, instance, in_full=self._in_full)
        Timeline(self._screen, instance.created_at, in_full=self._in_full).add(new)
        if has_ended:
            show_instance(self._screen, instance, in_full=self._in_full)
        elif last is not None and (last.status, last.worker_id) != (instance.status, instance.worker_id):
            at_work = f" at {instance.worker_id}" if instance.worker_id else ""
            self._screen.line("now ", styled(instance.status), at_work)
        if last is not None and instance.details != last.details and not has_ended:
            self._screen.line(("details  ", "dim"), short_json(instance.details), hang=2)
