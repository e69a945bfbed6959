"""Runs ``async def`` tests with trio."""

from __future__ import annotations

import inspect
import math

import pytest
import trio
import trio.testing

from trio_romancy import define

LONGEST_TEST = 60.0
"""Seconds on the real clock after which a test hangs."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_clock: the time of this async test is real; by default it is virtual")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    is_real = pyfuncitem.get_closest_marker("real_clock") is not None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def test() -> None:
        # Under the virtual clock a deadline would not wait for threads: it would come as soon as all tasks wait.
        with trio.fail_after(LONGEST_TEST if is_real else math.inf):
            await pyfuncitem.obj(**arguments)

    trio.run(test, clock=None if is_real else trio.testing.MockClock(autojump_threshold=0))
    return True


@pytest.fixture(autouse=True)
def only_own_definitions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test sees the definitions of its own module only, as if no other had been imported."""
    own = {key: made for key, made in define._registry.items() if made.function.__module__ == request.module.__name__}
    monkeypatch.setattr(define, "_registry", own)
