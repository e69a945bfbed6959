"""A SQLite file that is deleted, moved or replaced under a running app is an error in the log, and an outage."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
import trio

from trio_romancy import App, WorkflowContext, activity, current_activity, workflow

SUFFIXES = ("", "-wal", "-shm")


@activity(name="files_step")
async def step(n: int) -> int:
    return n


@workflow(name="files_flow")
async def flow(ctx: WorkflowContext, n: int) -> int:
    return await step(n)


@activity(name="files_deletes_file")
async def deletes_file(path: str) -> None:
    await current_activity().session.execute(sa.text("SELECT 1"))
    await trio.to_thread.run_sync(delete_all, Path(path))
    await trio.to_thread.run_sync(time.sleep, 0.1)


@workflow(name="files_flow_with_session")
async def flow_with_session(ctx: WorkflowContext, path: str) -> str:
    await deletes_file(path)
    return "recorded"


def delete_all(path: Path) -> None:
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}").unlink()


def delete_database(path: Path) -> None:
    path.unlink()


def delete_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def delete_index_of_log(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def replace(path: Path) -> None:
    shutil.copy(path, f"{path}.new")
    Path(f"{path}.new").rename(path)


def move(path: Path) -> None:
    path.rename(f"{path}.old")


def move_back(path: Path) -> None:
    Path(f"{path}.old").rename(path)


def move_directory(path: Path) -> None:
    path.parent.rename(f"{path.parent}.old")


DAMAGES = [delete_all, delete_database, delete_log, delete_index_of_log, replace, move, move_directory]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "app.db"


async def until_logged(caplog: pytest.LogCaptureFixture, level: int, text: str) -> str:
    with trio.fail_after(1000):
        while True:
            for record in caplog.records:
                if record.levelno == level and text in record.getMessage():
                    return record.getMessage()
            await trio.sleep(0.5)


async def is_ready(app: App) -> bool:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app.asgi), base_url="http://app") as client:
        return (await client.get("/health/ready")).status_code == 200


@pytest.mark.parametrize("worker", [True, False], ids=["worker", "client"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_file_that_is_no_longer_there_is_an_error_in_the_log_and_the_app_is_not_ready(
    path: Path, damage: Callable[[Path], None], worker: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(str(path), lease=2, shutdown_timeout=1, worker=worker) as app:
        handle = await app.start(flow, 1)
        if worker:
            await handle.result()
        assert await is_ready(app)
        damage(path)
        time.sleep(0.1)  # noqa: ASYNC251 - real time, in which no transaction checks the files
        if worker:
            said = await until_logged(caplog, logging.ERROR, str(path))
            assert "while it was in use" in said
        assert not await is_ready(app)
        with trio.move_on_after(20) as scope:
            await app.start(flow, 2)
        assert scope.cancelled_caught, "it is not durable"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1, "it is said once"


async def test_what_an_activity_commits_to_a_deleted_file_is_not_recorded(path: Path) -> None:
    async with App(str(path), shutdown_timeout=1) as app:
        handle = await app.start(flow_with_session, str(path))
        with pytest.raises(trio.TooSlowError):
            await handle.result(timeout=20)


async def test_a_file_that_is_put_back_is_used_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with App(str(path), lease=2) as app:
        await (await app.start(flow, 1)).result()
        move(path)
        time.sleep(0.1)  # noqa: ASYNC251
        await until_logged(caplog, logging.ERROR, str(path))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: app.start(flow.options(id="later"), 2))
            await trio.sleep(100)
            move_back(path)
        await until_logged(caplog, logging.WARNING, "is back")
        assert await app.handle("later").result() == 2
        assert await is_ready(app)
    async with App(str(path)) as app:
        assert await app.handle("later").result() == 2
