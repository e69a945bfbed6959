"""While the database is away clients are told to come back, in time; and what they send again then counts once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trio
from httpx import AsyncClient, Response
from sqlalchemy import make_url

from trio_romancy import App, DatabaseError, WebSettings, WorkflowContext, workflow

from ..support.databases import Databases
from ..support.proxy import Proxy, open_proxy
from ..support.servers import PRODUCTS
from .serving import BATCHED, EVENT, STRUCTURED, client, open_client, stored

pytestmark = [pytest.mark.long, pytest.mark.real_clock]

TIMEOUT = 0.5
SLACK = 20.0
"""Seconds that an answer may be late on a loaded machine."""


@workflow(event_handler=True)
async def web_outage(ctx: WorkflowContext, name: str) -> str:
    return name


START = EVENT | {"type": "web_outage", "data": {"name": "a"}}


def check_unavailable(answer: Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["retryable"] is True
    assert answer.json()["error_type"] == "ServiceUnavailable"
    assert int(answer.headers["retry-after"]) > 0


async def check_away(http: AsyncClient, *, is_readable: bool = False) -> None:
    """What every client sees while the database is away, not much later than it should."""
    headers = {"authorization": "Bearer token"}
    with trio.fail_after(TIMEOUT + SLACK):
        check_unavailable(await http.post("/", json=START, headers=STRUCTURED | headers))
    with trio.fail_after(TIMEOUT + SLACK):
        check_unavailable(await http.post("/", json=[START, EVENT], headers=BATCHED | headers))
    with trio.fail_after(TIMEOUT + SLACK):
        check_unavailable(await http.post("/cancel/a", headers=headers))
    with trio.fail_after(2.0 + SLACK):
        ready = await http.get("/health/ready")
        if not is_readable:
            check_unavailable(ready)
    with trio.fail_after(SLACK):
        assert (await http.get("/health/live")).status_code == 200
        bad = await http.post("/", json=START | {"data": {}}, headers=STRUCTURED | headers)
        assert bad.status_code == 400


async def check_back(app: App, http: AsyncClient) -> None:
    """The same event, sent again, is there once."""
    http.headers["authorization"] = "Bearer token"
    with trio.fail_after(30):
        while (answer := await http.post("/", json=START, headers=STRUCTURED)).status_code == 503:  # noqa: ASYNC110
            await trio.sleep(0.1)
        assert answer.status_code == 202, answer.text
        assert await app.handle(answer.json()["instance_id"]).result() == "a"
        while (await http.get("/health/ready")).status_code != 200:  # noqa: ASYNC110
            await trio.sleep(0.1)
    found = await stored(app)
    assert len(found["instances"]) == 1
    assert [id for _, id, *_ in found["messages"]] == ["1"]


async def test_a_locked_file(tmp_path: Path) -> None:
    path = tmp_path / "romancy.db"
    async with App(str(path), web=WebSettings(timeout=TIMEOUT, token="token")) as app, open_client(app) as http:
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            await check_away(http, is_readable=True)
            other.execute("ROLLBACK")
        await check_back(app, http)


def _refuse(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()


AWAY: dict[str, Callable[[Proxy], None]] = {
    "stalled": lambda proxy: proxy.stall(),
    "refused": _refuse,
}


@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
@pytest.mark.parametrize("how", AWAY)
async def test_a_server_that_is_away(kind: str, databases: Databases, how: str) -> None:
    url = make_url(databases.empty(kind))
    port = {"mariadb": 3306, "postgresql": 5432}[kind]
    async with open_proxy(url.host or "127.0.0.1", url.port or port) as proxy:
        through = proxy.url(url.render_as_string(hide_password=False))
        async with (
            App(through, web=WebSettings(timeout=TIMEOUT, token="token"), lease=60) as app,
            open_client(app) as http,
        ):
            AWAY[how](proxy)
            await check_away(http)
            proxy.accept()
            proxy.resume()
            await check_back(app, http)


async def test_what_is_wrong_with_the_database_is_logged_and_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(":memory:") as app, client(app) as http:

        async def fails(*_: object, **__: object) -> None:
            raise DatabaseError("mysql://user@private.host cannot be used")

        monkeypatch.setattr(app, "send_prepared", fails)
        answer = await http.post("/", json=EVENT, headers=STRUCTURED)
        check_unavailable(answer)
        assert "private.host" not in answer.text
        assert "private.host" in caplog.text


async def test_a_failure_of_the_server_has_the_form_of_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with App(":memory:") as app:

        async def fails(*_: object, **__: object) -> None:
            raise ZeroDivisionError("a secret")

        monkeypatch.setattr(app, "send_prepared", fails)
        transport = httpx.ASGITransport(app.asgi, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://app") as http:
            answer = await http.post("/", json=EVENT, headers=STRUCTURED)
        assert answer.status_code == 500
        error = "the server has failed; its log says how"
        assert answer.json() == {"error": error, "error_type": "InternalServerError", "retryable": True}
        async with client(app) as http:
            with pytest.raises(ExceptionGroup) as caught:  # so that the server logs it
                await http.post("/", json=EVENT, headers=STRUCTURED)
            assert caught.group_contains(ZeroDivisionError)


async def test_a_batch_gets_its_time_for_each_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a slow database could never take a long one, however often it is sent again."""
    async with App(":memory:", web=WebSettings(timeout=TIMEOUT)) as app, open_client(app) as http:
        send_event = app.send_event

        async def slowly(*args: object, **kwargs: object) -> object:
            await trio.sleep(TIMEOUT / 3)
            return await send_event(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(app, "send_event", slowly)
        batch = [EVENT | {"id": str(number)} for number in range(8)]
        answer = await http.post("/", json=batch, headers=BATCHED)
        assert (answer.status_code, len(answer.json())) == (202, 8)
