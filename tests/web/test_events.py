"""CloudEvents in every content mode are taken once they are durable, and say what became of them."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import attrs
import pytest
import trio

from trio_romancy import App, ReceivedEvent, Status, WorkflowContext, workflow

from ..support.databases import ALL_KINDS
from .serving import BATCHED, BINARY, EVENT, NOTHING, STRUCTURED, client, stored


@attrs.define
class Order:
    order_id: str
    items: list[str]


@workflow(event_handler=True)
async def web_order(ctx: WorkflowContext, order: Order) -> str:
    return order.order_id


@workflow(event_handler=True)
async def web_two_parameters(ctx: WorkflowContext, name: str, count: int = 1) -> str:
    return name * count


@workflow(event_handler=True)
async def web_no_parameters(ctx: WorkflowContext) -> str:
    return "started"


@workflow
async def web_private(ctx: WorkflowContext, name: str) -> str:
    return name


@workflow
async def web_waits(ctx: WorkflowContext, type: str, subject: str | None = None) -> dict[str, Any]:
    event: ReceivedEvent[Any] = await ctx.wait_event(type, subject=subject)
    return attrs.asdict(
        event, value_serializer=lambda _, __, value: str(value) if isinstance(value, datetime) else value
    )


@workflow
async def web_subscribes(ctx: WorkflowContext) -> dict[str, Any]:
    await ctx.subscribe("web_subscribed")
    return (await ctx.receive("web_subscribed")).metadata


@workflow(event_handler=True)
async def web_starts_and_waits(ctx: WorkflowContext, name: str) -> str:
    event: ReceivedEvent[Any] = await ctx.wait_event("web_starts_and_waits", data_type=dict[str, str])
    return f"{name} got {event.data['name']}"


@pytest.fixture(params=ALL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


async def started_waiting(app: App, *args: Any, id: str) -> None:
    await app.start(web_waits.options(id=id), *args)
    await until_it_waits(app, id)


async def until_it_waits(app: App, id: str) -> None:
    while True:
        instance = await app.get_instance(id)
        if instance is not None and instance.status is Status.WAITING:
            return
        await trio.sleep(0.01)


TIME = "2024-02-29T12:30:45.123456+01:00"

FULL = EVENT | {"id": "A 1", "type": "web_full", "subject": "Größe", "time": TIME, "traceparent": "00-1-2-3"}
FULL_HEADERS = {
    "ce-specversion": "1.0",
    "ce-id": '"A 1"',  # quoted, as the older versions of the specification do
    "ce-source": "/tests",
    "ce-type": "web_full",
    "ce-subject": "Gr%C3%B6%C3%9Fe",
    "ce-time": TIME,
    "ce-traceparent": "00-1-2-3",
    "content-type": "application/json; charset=utf-8",
}
DATA = {"sizes": [1, 2.5, None, True], "text": "Zoë \N{PILE OF POO} \0"}


@pytest.mark.parametrize("mode", ["structured", "batched", "binary"])
async def test_an_event_reaches_who_waits_for_it_as_it_was_sent(database: str, mode: str) -> None:
    async with App(database) as app, client(app) as http:
        await started_waiting(app, "web_full", id="w")
        if mode == "structured":
            answer = await http.post("/", json=FULL | {"data": DATA}, headers=STRUCTURED)
        elif mode == "batched":
            answer = await http.post("/", json=[FULL | {"data": DATA}], headers=BATCHED)
        else:
            answer = await http.post("/", content=json.dumps(DATA).encode(), headers=FULL_HEADERS)
        assert answer.status_code == 202, answer.text
        result = answer.json()[0] if mode == "batched" else answer.json()
        assert result == {"event_id": "A 1", "instance_id": None, "waiting": 1, "duplicate": False}
        assert await app.handle("w").result() == {
            "id": "A 1",
            "source": "/tests",
            "type": "web_full",
            "subject": "Größe",
            "time": "2024-02-29 11:30:45.123456+00:00",
            "data": DATA,
        }


async def test_an_event_that_nobody_waits_for_is_durable_all_the_same(database: str) -> None:
    async with App(database) as app, client(app) as http:
        answer = await http.post("/", json=EVENT | {"data": [1]}, headers=STRUCTURED)
        assert (answer.status_code, answer.json()["waiting"]) == (202, 0)
        (message,) = (await stored(app))["messages"]
        assert message == ("/tests", "1", "web_nobody_waits", None, "", None, "[1]")


async def test_only_those_that_wait_for_its_subject_get_it() -> None:
    async with App(":memory:") as app, client(app) as http:
        await started_waiting(app, "web_subject", "a", id="a")
        await started_waiting(app, "web_subject", "b", id="b")
        await started_waiting(app, "web_subject", id="any")
        event = EVENT | {"type": "web_subject", "subject": "a"}
        answer = await http.post("/", json=event, headers=STRUCTURED)
        assert answer.json()["waiting"] == 2
        assert (await app.handle("a").result())["id"] == (await app.handle("any").result())["id"] == "1"
        assert (await app.get_instance("b")).status is Status.WAITING  # type: ignore[union-attr]


async def test_an_event_for_one_instance_reaches_no_other_and_starts_none(database: str) -> None:
    async with App(database) as app, client(app) as http:
        await started_waiting(app, "web_no_parameters", id="a")
        await started_waiting(app, "web_no_parameters", id="b")
        event = EVENT | {"type": "web_no_parameters", "romancyinstance": "b"}
        answer = await http.post("/", json=event, headers=STRUCTURED)
        assert answer.json() == {"event_id": "1", "instance_id": None, "waiting": 1, "duplicate": False}
        assert (await app.handle("b").result())["id"] == "1"
        assert (await app.get_instance("a")).status is Status.WAITING  # type: ignore[union-attr]
        assert len((await stored(app))["instances"]) == 2


async def test_an_event_that_comes_again_is_dropped(database: str) -> None:
    async with App(database) as app, client(app) as http:
        await started_waiting(app, "web_again", id="a")
        event = EVENT | {"type": "web_again"}
        answers = [(await http.post("/", json=event, headers=STRUCTURED)).json() for _ in range(3)]
        assert [answer["duplicate"] for answer in answers] == [False, True, True]
        assert len((await stored(app))["messages"]) == 1
        other_source = await http.post("/", json=event | {"source": "/others"}, headers=STRUCTURED)
        assert other_source.json()["duplicate"] is False


# -- data --------------------------------------------------------------------------------------------------------------

NO_JSON = b"\x00\xff\xfe"
IN_BASE64 = base64.b64encode(NO_JSON).decode()


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/problem+json", b"1.5", 1.5),
        ("Text/JSON;charset=UTF-8", b'"x"', "x"),
        (None, b"null", None),
        (None, b"[]", []),
        ("application/json", b"", None),
        ("text/plain", "Zoë".encode(), "Zoë"),
        ("text/csv; charset=utf-8", b"1,2", "1,2"),
        ("application/xml", b"<a/>", "<a/>"),
        ("image/svg+xml", b"<svg/>", "<svg/>"),
        ("application/octet-stream", NO_JSON, IN_BASE64),
        ("image/png", b"text", "dGV4dA=="),
        ("", b"{}", {}),
    ],
)
async def test_the_content_type_says_what_the_data_are_in_binary_mode(
    content_type: str | None, body: bytes, data: object
) -> None:
    headers = BINARY if content_type is None else BINARY | {"content-type": content_type}
    async with App(":memory:") as app, client(app) as http:
        answer = await http.post("/", content=body, headers=headers)
        assert answer.status_code == 202, answer.text
        ((*_, text),) = (await stored(app))["messages"]
        assert json.loads(text) == data


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({}, None),
        ({"data": None}, None),
        ({"data": {"a": 1}}, {"a": 1}),
        ({"data": "text", "datacontenttype": "text/plain"}, "text"),
        ({"data": "<a/>", "datacontenttype": "application/xml"}, "<a/>"),
        ({"data_base64": IN_BASE64}, IN_BASE64),
        ({"data_base64": None, "data": 1}, 1),
        ({"data_base64": "AB=="}, "AA=="),
        ({"data_base64": IN_BASE64, "datacontenttype": "application/octet-stream"}, IN_BASE64),
        ({"data_base64": "eyJhIjogWzFdfQ==", "datacontenttype": "application/json"}, {"a": [1]}),
        ({"data_base64": "MS41", "datacontenttype": "Application/Problem+JSON; charset=utf-8"}, 1.5),
        ({"data_base64": "", "datacontenttype": "application/json"}, None),
        ({"data_base64": "Wm/Dqw==", "datacontenttype": "text/plain"}, "Zoë"),
        ({"data_base64": "eyJhIjogWzFdfQ==", "datacontenttype": "image/png"}, "eyJhIjogWzFdfQ=="),
    ],
)
async def test_data_in_structured_mode(fields: dict[str, Any], data: object) -> None:
    async with App(":memory:") as app, client(app) as http:
        answer = await http.post("/", json=EVENT | fields, headers=STRUCTURED)
        assert answer.status_code == 202, answer.text
        ((*_, text),) = (await stored(app))["messages"]
        assert json.loads(text) == data


async def test_bytes_can_be_received_as_bytes() -> None:
    @workflow(name="web_bytes")
    async def receives_bytes(ctx: WorkflowContext) -> bytes:
        event: ReceivedEvent[Any] = await ctx.wait_event("web_bytes", data_type=bytes)
        data: bytes = event.data
        return data

    async with App(":memory:") as app, client(app) as http:
        handle = await app.start(receives_bytes)
        headers = BINARY | {"ce-type": "web_bytes", "content-type": "application/octet-stream"}
        assert (await http.post("/", content=NO_JSON, headers=headers)).status_code == 202
        assert await handle.result() == NO_JSON


async def test_who_subscribes_to_its_type_finds_the_other_attributes_in_the_metadata() -> None:
    async with App(":memory:") as app, client(app) as http:
        handle = await app.start(web_subscribes.options(id="s"))
        await until_it_waits(app, "s")
        event = EVENT | {"type": "web_subscribed", "dataschema": "urn:x", "sampled": True, "number": 3, "nothing": None}
        assert (await http.post("/", json=event, headers=STRUCTURED)).json()["waiting"] == 1
        metadata = await handle.result()
        assert metadata == {
            "id": "1",
            "source": "/tests",
            "type": "web_subscribed",
            "subject": None,
            "dataschema": "urn:x",
            "sampled": True,
            "number": 3,
        }


# -- batches -----------------------------------------------------------------------------------------------------------


async def test_a_batch_has_one_result_for_each_event_in_order(database: str) -> None:
    async with App(database) as app, client(app) as http:
        await started_waiting(app, "web_batch", id="a")
        batch = [
            EVENT | {"id": "1"},
            EVENT | {"id": "2", "type": "web_batch"},
            EVENT | {"id": "3", "type": "web_order", "data": {"order_id": "o", "items": []}},
            EVENT | {"id": "1"},
        ]
        answer = await http.post("/", json=batch, headers=BATCHED)
        assert answer.status_code == 202, answer.text
        results = answer.json()
        assert [result["event_id"] for result in results] == ["1", "2", "3", "1"]
        assert [result["waiting"] for result in results] == [0, 1, 0, 0]
        assert [result["duplicate"] for result in results] == [False, False, False, True]
        assert [result["instance_id"] is not None for result in results] == [False, False, True, False]
        assert await app.handle(results[2]["instance_id"]).result() == "o"
        assert [id for _, id, *_ in (await stored(app))["messages"]] == ["1", "2", "3"]


async def test_an_empty_batch_is_fine() -> None:
    async with App(":memory:") as app, client(app) as http:
        answer = await http.post("/", json=[], headers=BATCHED)
        assert (answer.status_code, answer.json()) == (202, [])
        assert await stored(app) == NOTHING


# -- starting workflows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "data", "result"),
    [
        ("web_order", {"order_id": "o-1", "items": ["a"]}, "o-1"),
        ("web_two_parameters", {"name": "ab", "count": 2}, "abab"),
        ("web_two_parameters", {"name": "ab"}, "ab"),
        ("web_no_parameters", {}, "started"),
        ("web_no_parameters", None, "started"),
    ],
)
async def test_an_event_starts_the_workflow_of_its_type(database: str, type: str, data: Any, result: str) -> None:
    async with App(database) as app, client(app) as http:
        answer = await http.post("/", json=EVENT | {"type": type, "data": data}, headers=STRUCTURED)
        assert answer.status_code == 202, answer.text
        assert answer.json()["duplicate"] is False
        assert await app.handle(answer.json()["instance_id"]).result() == result


async def test_a_client_without_a_worker_starts_instances_for_others(database: str) -> None:
    async with App(database, worker=False) as app, client(app) as http:
        answer = await http.post("/", json=EVENT | {"type": "web_no_parameters"}, headers=STRUCTURED)
        instance = await app.get_instance(answer.json()["instance_id"])
        assert instance is not None and instance.status is Status.PENDING


async def test_a_workflow_that_is_no_event_handler_is_not_started() -> None:
    async with App(":memory:") as app, client(app) as http:
        answer = await http.post("/", json=EVENT | {"type": "web_private", "data": {"name": "x"}}, headers=STRUCTURED)
        assert (answer.status_code, answer.json()["instance_id"]) == (202, None)
        assert (await stored(app))["instances"] == []


async def test_the_same_event_starts_one_instance_however_often_it_comes(database: str) -> None:
    async with App(database) as app, client(app) as http:
        event = EVENT | {"type": "web_order", "data": {"order_id": "o-1", "items": []}}
        answers = [(await http.post("/", json=event, headers=STRUCTURED)).json() for _ in range(3)]
        assert [answer["duplicate"] for answer in answers] == [False, True, True]
        assert len({answer["instance_id"] for answer in answers}) == 1
        (instance,) = (await stored(app))["instances"]
        other = await http.post("/", json=event | {"source": "/others"}, headers=STRUCTURED)
        assert other.json()["instance_id"] != instance[0]


async def test_the_same_event_with_other_data_is_a_duplicate_and_changes_nothing(database: str) -> None:
    async with App(database) as app, client(app) as http:
        event = EVENT | {"type": "web_order"}
        first = await http.post("/", json=event | {"data": {"order_id": "o-1", "items": []}}, headers=STRUCTURED)
        before = await stored(app)
        second = await http.post("/", json=event | {"data": {"order_id": "o-2", "items": []}}, headers=STRUCTURED)
        assert (second.status_code, second.json()["duplicate"]) == (202, True)
        assert second.json()["instance_id"] == first.json()["instance_id"]
        assert await stored(app) == before


async def test_a_repetition_starts_what_a_crash_after_sending_has_not(database: str) -> None:
    async with App(database) as app, client(app) as http:
        await app.send_event("web_no_parameters", None, source="/tests", id="1")
        answer = await http.post("/", json=EVENT | {"type": "web_no_parameters"}, headers=STRUCTURED)
        assert answer.json()["duplicate"] is True
        assert await app.handle(answer.json()["instance_id"]).result() == "started"


async def test_the_instance_that_an_event_starts_does_not_receive_it_but_others_do(database: str) -> None:
    async with App(database) as app, client(app) as http:
        await started_waiting(app, "web_starts_and_waits", id="other")
        event = EVENT | {"type": "web_starts_and_waits", "data": {"name": "one"}}
        first = (await http.post("/", json=event, headers=STRUCTURED)).json()
        assert first["waiting"] == 1
        assert (await app.handle("other").result())["id"] == "1"
        await until_it_waits(app, first["instance_id"])
        event = event | {"id": "2", "data": {"name": "two"}}
        second = (await http.post("/", json=event, headers=STRUCTURED)).json()
        assert second["waiting"] == 1
        assert await app.handle(first["instance_id"]).result() == "one got two"
        await until_it_waits(app, second["instance_id"])


def test_whether_a_workflow_handles_events_is_off_unless_it_says_so() -> None:
    assert web_order.event_handler and not web_private.event_handler
