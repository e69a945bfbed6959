"""Over real connections, through Hypercorn's trio worker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from trio_romancy import App, WebSettings

from .serving import BATCHED, BINARY, EVENT, NOTHING, STRUCTURED, call, open_client, open_hypercorn, stored

pytestmark = pytest.mark.real_clock


async def test_all_content_modes_and_statuses() -> None:
    async with App(":memory:", web=WebSettings(token="token")) as app, open_client(app) as http:
        assert (await http.get("/health/live")).status_code == 200
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.post("/", json=EVENT, headers=STRUCTURED)).status_code == 401
        http.headers["authorization"] = "Bearer token"
        answers = [
            await http.post("/", json=EVENT, headers=STRUCTURED),
            await http.post("/", json=[EVENT | {"id": "2"}], headers=BATCHED),
            await http.post("/", content=b"text", headers=BINARY | {"ce-id": "3", "content-type": "text/plain"}),
            await http.post("/", content=b"{", headers=STRUCTURED),
            await http.post("/", content=b"x", headers={"content-type": "text/plain"}),
            await http.post("/", content=b" " * 5_000_000, headers=STRUCTURED),
            await http.post("/cancel/nobody"),
            await http.get("/"),
        ]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 400, 415, 413, 404, 405]
        assert [id for _, id, *_ in (await stored(app))["messages"]] == ["1", "2", "3"]


async def idle_tasks() -> int:
    """How many tasks there are while there are no clients."""
    await trio.testing.wait_all_tasks_blocked(0.05)
    return trio.lowlevel.current_statistics().tasks_living


async def check_nothing_is_left(tasks: int) -> None:
    with trio.fail_after(30):
        while trio.lowlevel.current_statistics().tasks_living > tasks:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def endless(sent: list[int]) -> AsyncIterator[bytes]:
    while True:
        sent.append(65_536)
        yield b"x" * 65_536


@pytest.mark.parametrize("status", [413, 415, 401])
async def test_a_body_without_end_is_refused_and_its_connection_let_go(status: int) -> None:
    sent: list[int] = []
    token = "token" if status == 401 else None
    headers = STRUCTURED if status == 413 else {"content-type": "text/plain"}
    async with App(":memory:", web=WebSettings(body_limit=1_000_000, token=token)) as app, open_hypercorn(app) as url:
        tasks = await idle_tasks()
        with trio.fail_after(30):
            async with httpx.AsyncClient() as http:
                try:
                    answer = await http.post(url, content=endless(sent), headers=headers)
                    assert answer.status_code == status
                except httpx.WriteError:  # reset, while it still writes
                    pass
        assert sum(sent) < 20_000_000
        await check_nothing_is_left(tasks)
        assert await stored(app) == NOTHING
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/health/live")).status_code == 200


async def test_an_answer_can_be_read_although_the_rest_of_the_body_is_not() -> None:
    async with App(":memory:", web=WebSettings(body_limit=100)) as app, open_hypercorn(app) as url:
        tasks = await idle_tasks()
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        async with stream:
            request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/cloudevents+json\r\n"
            parts = [b"a\r\n" + b"x" * 10 + b"\r\n"] * 50
            await stream.send_all(f"{request}transfer-encoding: chunked\r\n\r\n".encode() + b"".join(parts))
            answer = b""
            with trio.fail_after(30):
                async for part in stream:
                    answer += part
        await check_nothing_is_left(tasks)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_type"] == "ContentTooLarge"


async def test_a_client_that_leaves_in_the_middle_does_no_harm() -> None:
    async with App(":memory:") as app, open_hypercorn(app) as url:
        for length in (1, 50, 10_000):
            stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
            head = (
                f"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/cloudevents+json\r\ncontent-length: {length}"
            )
            await stream.send_all(f"{head}\r\n\r\n{{".encode())
            await stream.aclose()
        async with httpx.AsyncClient() as http:
            assert (await http.post(url, json=EVENT, headers=STRUCTURED)).status_code == 202
        assert len((await stored(app))["messages"]) == 1


async def test_many_clients_at_once() -> None:
    async with App(":memory:") as app, open_client(app) as http:
        statuses = []

        async def post(number: int) -> None:
            answer = await http.post("/", json=EVENT | {"id": str(number)}, headers=STRUCTURED)
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(post, number)
        assert statuses == [202] * 100
        assert {id for _, id, *_ in (await stored(app))["messages"]} == {str(number) for number in range(100)}


async def test_a_body_that_trickles_is_cut_off() -> None:
    async with (
        App(":memory:", web=WebSettings(token="t", body_timeout=0.5)) as app,
        open_hypercorn(app) as url,
        httpx.AsyncClient(headers={"authorization": "Bearer t"}, timeout=None) as http,
    ):

        async def trickle() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await trio.sleep(0.05)

        tasks = await idle_tasks()
        with trio.fail_after(30):
            for path in ("/", "/cancel/a"):
                try:
                    answer = await http.post(url + path, content=trickle(), headers=STRUCTURED)
                except httpx.WriteError:  # reset, while it still writes
                    continue
                assert (answer.status_code, answer.json()["error_type"]) == (408, "RequestTimeout")
                assert answer.json()["retryable"] is True
        await http.aclose()
        await check_nothing_is_left(tasks)
        assert await stored(app) == NOTHING


@pytest.mark.parametrize("prefix", ["/events", "/a/b"])
async def test_events_are_taken_at_a_mount_without_a_slash_at_its_end(prefix: str) -> None:
    async with App(":memory:", web=WebSettings(token="token")) as app:
        mount, route = Mount(prefix, app.asgi), Route(prefix, app.asgi, methods=["POST", "OPTIONS"])
        inner = [Route("/b", app.asgi, methods=["POST"]), Mount("/b", app.asgi)]
        nested = [Mount("/a", Starlette(routes=inner)), *([route, mount] if prefix == "/events" else [])]
        for number, routes in enumerate(([route, mount], nested)):
            transport = httpx.ASGITransport(Starlette(routes=routes))
            headers = STRUCTURED | {"authorization": "Bearer token"}
            async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as http:
                for path in (prefix, f"{prefix}/"):
                    event = EVENT | {"id": f"{path} {number}"}
                    assert (await http.post(path, json=event)).status_code == 202
                assert (await http.post(f"{prefix}/cancel/a")).status_code == 404
                assert (await http.post(f"{prefix}/nothing", json=EVENT)).status_code == 404
                assert (await http.get(f"{prefix}/health/ready")).status_code == 200
        assert len((await stored(app))["messages"]) == 4


async def test_a_server_may_strip_the_path_of_its_mount() -> None:
    async with App(":memory:") as app:
        for number, (root, path) in enumerate([("/events", "/events"), ("/events", "/"), ("/", "/")]):
            body = json.dumps(EVENT | {"id": f"{number}"}).encode()
            answer = await call(app, "POST", path, STRUCTURED, [body], root_path=root)
            assert answer is not None and answer.status == 202


async def test_it_can_be_a_part_of_another_application() -> None:
    async with App(":memory:", web=WebSettings(token="token")) as app:
        whole = Starlette(routes=[Mount("/events", app.asgi)])
        transport = httpx.ASGITransport(whole)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            assert (await http.get("/events/health/ready")).status_code == 200
            assert (await http.post("/events/", json=EVENT, headers=STRUCTURED)).status_code == 401
            headers = STRUCTURED | {"authorization": "Bearer token"}
            assert (await http.post("/events/", json=EVENT, headers=headers)).status_code == 202
            assert (await http.post("/events/cancel/a", headers=headers)).status_code == 404
