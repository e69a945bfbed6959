"""A large body holds up neither the event loop nor other requests, and is not blamed on the database."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from trio_romancy import App, WebSettings, WorkflowContext, workflow

from .serving import BATCHED, BINARY, STRUCTURED, client

MANY = 200_000
EVENT = {"specversion": "1.0", "id": "1", "source": "/tests", "type": "web_large", "data": {"x": [[]] * MANY}}


@workflow(name="web_large", event_handler=True)
async def large(ctx: WorkflowContext, x: Any) -> int:
    return len(x)


@workflow(name="web_large_waits")
async def waits(ctx: WorkflowContext) -> str:
    event = await ctx.wait_event("web_large", data_type=dict[str, Any])
    return f"{len(event.data['x'])} at {event.time.isoformat()}, now {ctx.now().isoformat()}"


BODIES = {
    "structured": (STRUCTURED, json.dumps(EVENT)),
    "batched": (BATCHED, json.dumps([EVENT])),
    "binary": (
        BINARY | {"ce-type": "web_large", "content-type": "application/json"},
        json.dumps(EVENT["data"]),
    ),
}


@pytest.mark.real_clock
@pytest.mark.parametrize("mode", BODIES)
async def test_other_tasks_go_on_while_a_large_event_is_read(mode: str) -> None:
    ticks = 0
    headers, body = BODIES[mode]

    async def tick() -> None:
        nonlocal ticks
        async with client(app) as prober:
            while True:
                assert (await prober.get("/health/live")).status_code == 200
                ticks += 1
                await trio.sleep(0.005)

    async with (
        App(":memory:", web=WebSettings(timeout=0.5)) as app,
        client(app) as http,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(tick)
        answer = await http.post("/", headers=headers, content=body, timeout=100)
        nursery.cancel_scope.cancel()
        assert answer.status_code == 202
        result = answer.json()
        instance_id = (result[0] if mode == "batched" else result)["instance_id"]
        assert await app.handle(instance_id).result() == MANY
    assert ticks > 10


@pytest.mark.parametrize("mode", BODIES)
async def test_a_large_event_is_received_and_a_second_one_is_a_duplicate(database: str, mode: str) -> None:
    headers, body = BODIES[mode]
    async with App(database) as app, client(app) as http:
        handle = await app.start(waits)
        await trio.sleep(3)
        for is_duplicate in (False, True):
            result = (await http.post("/", headers=headers, content=body)).json()
            assert (result[0] if mode == "batched" else result)["duplicate"] is is_duplicate
        many, _, rest = (await handle.result()).partition(" at ")
        sent, _, received = rest.partition(", now ")
        assert int(many) == MANY
        assert sent[:16] == received[:16], "it was sent when it was stored"


@pytest.mark.parametrize(
    ("data", "status", "named"),
    [
        pytest.param("[" * 150 + "]" * 150, 400, "nested", id="deep"),
        pytest.param("[" + "[" * 50_000 + "]" * 50_000 + "]", 400, "nested", id="very deep"),
        pytest.param("9" * 5_000, 400, "digits", id="long number"),
        pytest.param("[" + "1," * 100_000 + "NaN]", 400, "NaN", id="NaN"),
        pytest.param("[" + "1," * 100_000 + "]", 400, "JSON", id="broken"),
        pytest.param('["\\ud800"' + ",1" * 100_000 + "]", 400, "surrogate", id="half a surrogate pair"),
    ],
)
async def test_a_large_body_that_cannot_be_stored_is_refused(data: str, status: int, named: str) -> None:
    body = '{"specversion":"1.0","id":"1","source":"/tests","type":"web_large","data":{"x":%s,"y":"%s"}}'
    async with App(":memory:") as app, client(app) as http:
        for padding in ("", "x" * 200_000):
            answer = await http.post("/", headers=STRUCTURED, content=body % (data, padding))
            assert answer.status_code == status
            assert named in answer.json()["error"]
