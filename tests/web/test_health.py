"""Liveness and readiness."""

from __future__ import annotations

import asyncio
import builtins
import sys
from typing import Any

import pytest

from trio_romancy import App, RomancyError

from ..support.probe import probe
from .serving import client


@pytest.mark.parametrize("worker", [True, False])
async def test_an_app_that_works_is_live_and_ready(database: str, worker: bool) -> None:
    async with App(database, worker=worker) as app, client(app) as http:
        live, ready = await http.get("/health/live"), await http.get("/health/ready")
        assert (live.status_code, live.json()) == (200, {"status": "live"})
        assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
        assert (await http.head("/health/ready")).status_code == 200


async def test_an_app_that_does_not_run_is_live_and_not_ready() -> None:
    app = App(":memory:")
    async with client(app) as http:
        assert (await http.get("/health/live")).status_code == 200
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["retryable"]) == (503, True)


async def test_a_worker_without_a_lease_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async with App(":memory:") as app, client(app) as http:
        with monkeypatch.context() as patch:
            probe(app).lose_lease_unnoticed(patch)
            ready = await http.get("/health/ready")
            assert (ready.status_code, ready.json()["error"]) == (503, "the worker holds no lease")
            assert int(ready.headers["retry-after"]) > 0
        assert (await http.get("/health/ready")).status_code == 200


def test_a_server_on_asyncio_is_told_that_it_must_run_on_trio() -> None:
    app = App(":memory:")

    async def nothing(*_: object) -> Any:
        raise AssertionError

    async def main() -> None:
        with pytest.raises(RomancyError, match=r"does not run on trio; use one that does, such as hypercorn\.trio"):
            await app.asgi({"type": "lifespan", "asgi": {"version": "3.0"}}, nothing, nothing)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # whatever policy trio-asyncio has set
        runner.run(main())


@pytest.mark.parametrize("missing", ["starlette", "cloudevents"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real_import = builtins.__import__

    def import_without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("trio_romancy.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(RomancyError, match=rf"{missing}\S* is missing: pip install 'trio_romancy\[web\]'"):
        App(":memory:").asgi  # noqa: B018
