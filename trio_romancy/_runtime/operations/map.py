"""Bounded fan-out: a function is called for each of many items, some at a time, each in a branch of its own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sized
from contextlib import suppress
from functools import partial
from typing import Any, get_args

import trio

from ..._context.workflow import OnError
from ..._definitions.values import Activity, Workflow
from ...errors import OperationIdError
from ..run.run import InstanceRun

_END = object()
"""Stands for the item after the last one."""


async def map_items(
    run: InstanceRun,
    fn: Callable[..., Awaitable[Any]] | Workflow[..., Any],
    iterables: tuple[Iterable[Any], ...],
    at_once: int | None,
    on_error: OnError,
    id: str | None,
    run_child: Callable[..., Awaitable[Any]],
) -> list[Any]:
    """Call the function for each item, and return the results in the order of the items.

    This is a cancellation point. Ids belong to items: which task takes an item has no influence on the journal.

    Args:
      run_child: runs a workflow, its first argument, as a child.
    """
    run.refuse_if_gone()
    items = _checked(run, fn, iterables, at_once, on_error)
    call = partial(run_child, fn) if isinstance(fn, Workflow) else fn
    map_id = run.ids.new_map(trio.lowlevel.current_task(), id)
    await trio.lowlevel.checkpoint_if_cancelled()
    results: list[Any] = [None] * len(items)
    errors: dict[int, Exception] = {}
    left = iter(enumerate(items))
    nursery: trio.Nursery | None = None

    async def work() -> None:
        for index, arguments in left:
            try:
                with run.ids.item(map_id, index):
                    results[index] = await _called(call, arguments)
            except Exception as error:
                errors[index] = error
                if on_error == "cancel" and nursery is not None:
                    nursery.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                cancelled, failed = group.split(trio.Cancelled)
                if not errors or cancelled is None or not isinstance(failed, Exception):
                    raise
                errors[index] = failed  # of an item that was cancelled after the first error
                raise cancelled from None
            if errors and on_error == "cancel":
                return

    workers = len(items) if at_once is None else min(at_once, len(items))
    if workers == 1:
        await work()  # the task of the caller is enough
    elif workers:
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(work, name=map_id)
    if errors:
        raise _error_of(map_id, len(items), errors, on_error)
    return results


def _checked(
    run: InstanceRun,
    fn: Callable[..., Awaitable[Any]] | Workflow[..., Any],
    iterables: tuple[Iterable[Any], ...],
    at_once: int | None,
    on_error: OnError,
) -> list[tuple[Any, ...]]:
    """Return the arguments of each call, or raise what is wrong with those of the map."""
    if isinstance(fn, Activity | Workflow) and fn.id is not None:
        raise OperationIdError(
            f"instance {run.instance_id!r}: ctx.map would call {fn.name!r} under the id {fn.id!r} for every item; pass "
            f"it without .options(id=...), the map names the items itself"
        )
    if not callable(fn):
        raise TypeError(f"ctx.map calls an activity, a workflow or an async function for each item, not {fn!r}")
    if not iterables:
        raise TypeError("ctx.map needs items: ctx.map(fn, items)")
    if at_once is not None and (not isinstance(at_once, int) or at_once < 1):
        raise ValueError(f"ctx.map: at_once is a number of items, 1 or more, or None for all; not {at_once!r}")
    if on_error not in get_args(OnError):
        raise ValueError(f"ctx.map: on_error is 'cancel' or 'continue', not {on_error!r}")
    lengths = [len(iterable) for iterable in iterables if isinstance(iterable, Sized)]
    if len({*lengths}) > 1:
        raise ValueError(f"ctx.map: the iterables must be equally long, and have {', '.join(map(str, lengths))} items")
    items: list[tuple[Any, ...]] = []
    iterators = [iter(iterable) for iterable in iterables]
    while True:  # item by item, since one of them may be endless
        item = tuple(next(iterator, _END) for iterator in iterators)
        ended = sum(value is _END for value in item)
        if ended == len(item):
            return items
        if ended:
            raise ValueError(f"ctx.map: the iterables must be equally long, and one has {len(items)} items, one more")
        items.append(item)


async def _called(fn: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
    called = fn(*arguments)
    if not inspect.isawaitable(called):
        raise TypeError(
            f"ctx.map: {fn!r} returned {type(called).__name__}, which cannot be awaited; pass an activity or an async "
            f"function"
        )
    return await called


def _error_of(map_id: str, count: int, errors: dict[int, Exception], on_error: OnError) -> Exception:
    """Return what a map raises. The first error is the first that the workflow was told."""
    first = next(iter(errors))
    for index, error in errors.items():
        _add_note(error, f"in item {index} of {map_id!r}")
    if on_error == "continue":
        in_order = [errors[index] for index in sorted(errors)]
        return ExceptionGroup(f"{len(errors)} of {count} items of {map_id!r} failed", in_order)
    if more := sorted(errors.keys() - {first}):
        _add_note(errors[first], f"before the others were cancelled, so did items {', '.join(map(str, more))}")
    return errors[first]


def _add_note(error: Exception, note: str) -> None:
    with suppress(Exception):  # an exception of the user's that takes none is raised without
        error.add_note(note)
