"""``POST /cancel/{instance_id}``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from trio_romancy import App, WebSettings, WorkflowCancelledError, WorkflowContext, WorkflowTerminatedError, workflow

from .serving import call, client, stored

TOKEN = "token"


@workflow
async def web_cancelled(ctx: WorkflowContext) -> None:
    await ctx.sleep(3600)


@workflow
async def web_ended(ctx: WorkflowContext) -> None:
    pass


@pytest.mark.parametrize(
    ("body", "reason"), [(None, None), ({}, None), ({"reason": None}, None), ({"reason": "too late"}, "too late")]
)
async def test_an_instance_is_cancelled(database: str, body: Any, reason: str | None) -> None:
    async with App(database, web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        handle = await app.start(web_cancelled.options(id="a"))
        answer = await (http.post("/cancel/a") if body is None else http.post("/cancel/a", json=body))
        assert (answer.status_code, answer.json()) == (202, {"instance_id": "a", "cancelled": True})
        with pytest.raises(WorkflowCancelledError) as caught:
            await handle.result()
        assert caught.value.reason == reason
        assert (await http.post("/cancel/a")).status_code == 202  # it has been cancelled


@pytest.mark.parametrize(
    "id", ["a/b", "/", "a b", "Zoë", "a%2Fb", "a?b#c", "%", "a\nb", "\n", "a/../b", "\x1b[31m", "\N{PILE OF POO}"]
)
@pytest.mark.parametrize("what", ["cancel", "terminate"])
async def test_any_id_can_be_cancelled_and_terminated(what: str, id: str) -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        await app.start(web_cancelled.options(id=id))
        answer = await http.post(f"/{what}/{quote(id, safe='')}")
        assert (answer.status_code, answer.json()["instance_id"]) == (202, id)


async def test_an_id_that_ends_with_a_newline_does_not_cancel_another() -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        await app.start(web_cancelled.options(id="a"))
        before = await stored(app)
        assert (await http.post("/cancel/a%0A")).status_code == 404
        assert await stored(app) == before


@pytest.mark.parametrize("id", ["nobody", "", "x" * 256, "a%00b", "%FF"])
async def test_an_instance_that_is_not_there_is_404(id: str) -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        answer = await http.post(f"/cancel/{id}")
        assert answer.status_code == 404
        assert answer.json()["retryable"] is False


async def test_an_instance_that_has_ended_is_409(database: str) -> None:
    async with App(database, web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        await (await app.start(web_ended.options(id="a"))).result()
        answer = await http.post("/cancel/a", json={"reason": "x"})
        assert (answer.status_code, answer.json()["error_type"]) == (409, "InstanceEndedError")


@pytest.mark.parametrize(
    "body",
    [
        *(b"x", b"[]", b"null", b'{"why": "x"}', b'{"reason": 1}', b'{"reason": "\\ud800"}', b"\xff", b"[" * 10_000),
        b'{"reason": "a", "reason": "b"}',
    ],
)
async def test_a_bad_body_cancels_nothing(body: bytes) -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        await app.start(web_cancelled.options(id="a"))
        before = await stored(app)
        answer = await http.post("/cancel/a", content=body)
        assert (answer.status_code, answer.json()["error_type"]) == (400, "InvalidRequest")
        assert (await http.post("/cancel/a", content=b" " * 100_000)).status_code == 413
        assert await stored(app) == before


async def test_it_is_off_without_a_token() -> None:
    async with App(":memory:") as app:
        await app.start(web_cancelled.options(id="a"))
        before = await stored(app)
        answer = await call(app, "POST", "/cancel/a")
        assert answer is not None and answer.status == 404
        assert await stored(app) == before


# -- terminating ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "instance 'a' was terminated"),
        ({"reason": "it hangs"}, "instance 'a' was terminated: it hangs"),
        ({"reason": None, "compensate": True}, "instance 'a' was terminated"),
    ],
)
async def test_an_instance_is_terminated(body: Any, message: str) -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        handle = await app.start(web_cancelled.options(id="a"))
        answer = await (http.post("/terminate/a") if body is None else http.post("/terminate/a", json=body))
        assert (answer.status_code, answer.json()) == (202, {"instance_id": "a", "terminated": True})
        with pytest.raises(WorkflowTerminatedError) as caught:
            await handle.result()
        assert str(caught.value) == message
        assert (await http.post("/terminate/a")).status_code == 202  # it has been terminated


async def test_what_cannot_be_terminated_is_refused() -> None:
    async with App(":memory:", web=WebSettings(token=TOKEN)) as app, client(app, TOKEN) as http:
        await (await app.start(web_ended.options(id="ended"))).result()
        await app.start(web_cancelled.options(id="a"))
        before = await stored(app)
        assert (await http.post("/terminate/nobody")).status_code == 404
        assert (await http.post("/terminate/a%0A")).status_code == 404
        assert (await http.post("/terminate/ended")).json()["error_type"] == "InstanceEndedError"
        for body in (b"x", b"[]", b'{"why": "x"}', b'{"reason": 1}', b'{"compensate": 1}', b'{"compensate": null}'):
            answer = await http.post("/terminate/a", content=body)
            assert (answer.status_code, answer.json()["error_type"]) == (400, "InvalidRequest")
        assert (await http.post("/cancel/a", json={"compensate": True})).status_code == 400
        assert await stored(app) == before
    async with App(":memory:") as app, client(app) as http:
        assert (await http.post("/terminate/a")).status_code == 404  # without a token there is no such path
