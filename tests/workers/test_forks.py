"""An app that is made when a module is imported can be entered in each process that is forked afterwards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from trio_romancy import App, WorkflowContext, activity, workflow

CHILDREN = 3


@activity(name="forks_process")
async def process_id() -> int:
    return os.getpid()


@workflow(name="forks_flow")
async def flow(ctx: WorkflowContext) -> int:
    return await process_id()


def test_a_name_that_is_not_given_belongs_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    app, named = App(":memory:"), App(":memory:", worker_id="me")
    here = app.worker_id
    assert app.worker_id == here
    monkeypatch.setattr(os, "getpid", lambda: 12345)
    assert "-12345-" in app.worker_id != here
    assert app.worker_id == app.worker_id
    assert named.worker_id == "me"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_each_forked_process_serves_under_a_name_of_its_own(tmp_path: Path) -> None:
    app = App(str(tmp_path / "romancy.db"), shutdown_timeout=1)
    assert app.worker_id  # asked for before the fork, too
    ready, tell = os.pipe()
    go, release = os.pipe()

    async def serve() -> None:
        async with app:
            await (await app.start(flow)).result()
            os.write(tell, f"{app.worker_id}\n".encode())
            await trio.to_thread.run_sync(os.read, go, 1)  # all serve at the same time

    children = []
    for _ in range(CHILDREN):
        if (child := os.fork()) == 0:
            code = 1
            try:
                trio.run(serve)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(tell)
    with os.fdopen(ready) as file:
        told = [file.readline() for _ in range(CHILDREN)]
    os.write(release, b"x" * CHILDREN)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * CHILDREN
    assert len(set(told)) == CHILDREN
    os.close(go)
    os.close(release)
