"""What the body of an app's block raises leaves the block as the same object."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from trio_romancy import App


def _nested() -> BaseException:
    inner = ExceptionGroup("inner", [ValueError("a"), ExceptionGroup("innermost", [OSError("b")])])
    return BaseExceptionGroup("mine", [inner, KeyboardInterrupt()])


@pytest.mark.parametrize("worker", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("alone"),
        lambda: ExceptionGroup("mine", [ValueError("a")]),
        lambda: ExceptionGroup("mine", [ValueError("a"), KeyError("b")]),
        _nested,
        KeyboardInterrupt,
    ],
    ids=["one", "group of one", "group", "nested", "Ctrl-C"],
)
async def test_it_is_the_same_object(make: Callable[[], BaseException], worker: bool) -> None:
    mine = make()
    with pytest.raises(type(mine)) as caught:
        async with App(":memory:", worker=worker):
            raise mine
    assert caught.value is mine


async def test_a_group_with_a_cancellation_of_an_outer_scope_reaches_that_scope() -> None:
    with trio.CancelScope() as scope:
        async with App(":memory:"):
            scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
    assert scope.cancelled_caught
