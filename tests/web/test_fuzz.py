"""Whatever is sent over HTTP, the server stands: no 500, no crash, and nothing is stored of what was refused.

By default a few hundred requests. ``TRIO_ROMANCY_FUZZ=20000 python -m pytest -s tests/web/test_fuzz.py`` sends so many,
each way, and prints what became of them.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import trio
import trio.testing
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_romancy import App, Limits, WebSettings, WorkflowContext, workflow

from .serving import Answer, call, open_hypercorn, stored

REQUESTS = int(os.environ.get("TRIO_ROMANCY_FUZZ", "300"))
"""Requests of a run."""
AT_ONCE = 10
"""Requests to one app."""
TOKEN = "token"
BODY_LIMIT = 4_000
MAX_PAYLOAD = 2_000

STATUSES = {200, 202, 400, 401, 404, 405, 409, 413, 415}


@workflow(event_handler=True)
async def web_fuzzed(ctx: WorkflowContext, name: str, count: int = 1) -> str:
    return name * count


@workflow(event_handler=True)
async def web_fuzzed_waits(ctx: WorkflowContext) -> None:
    await ctx.sleep(1e9)


# -- requests ----------------------------------------------------------------------------------------------------------


@frozen
class Request:
    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    parts: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


TYPES = ["web_fuzzed", "web_fuzzed_waits", "a.type", "web_other"]

words = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
inputs = st.fixed_dictionaries({"name": words}, optional={"count": st.integers(0, 3)})
times = st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat())
ids = st.sampled_from(["1", "2", "3"]) | words

events: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "specversion": st.just("1.0"),
        "id": ids,
        "source": st.sampled_from(["/a", "/b"]) | words,
        "type": st.sampled_from(TYPES) | words,
    },
    optional={
        "subject": words,
        "time": times,
        "data": inputs | plain,
        "datacontenttype": st.sampled_from(["application/json", "text/plain", "x"]),
        "dataschema": words,
        "extension": words | st.booleans() | st.integers(),
        "romancyinstance": st.just("resident"),
    },
)
odd_values = (
    plain
    | st.text(max_size=300)
    | st.sampled_from(
        ["", "x" * 255, "x" * 256, "a\0b", "\ud800", "%00", "%FF", "9999-12-31T23:59:59-12:00", "noon", 10**5000]
    )
    | st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode())
)
odd_names = st.sampled_from(
    [
        "id",
        "source",
        "type",
        "specversion",
        "subject",
        "time",
        "data",
        "data_base64",
        "romancyinstance",
        "x",
        "A",
        "",
        "a-b",
    ]
) | st.text(max_size=8)


@st.composite
def odd_events(draw: st.DrawFn) -> Any:
    """Events with some attributes that are missing, or something else than they should be."""
    event = draw(events)
    for name in draw(st.lists(odd_names, min_size=1, max_size=2)):
        if draw(st.booleans()):
            event.pop(name, None)
        else:
            event[name] = draw(odd_values)
    return event


def to_json(value: Any) -> bytes:
    try:
        text = json.dumps(value)
    except ValueError:  # a number of too many digits
        text = "1" * 5000
    return text.encode()


content_types = st.sampled_from(
    [
        b"application/cloudevents+json",
        b"application/cloudevents-batch+json",
        b"Application/CloudEvents+JSON; charset=UTF-8",
        b"application/cloudevents+avro",
        b"application/json",
        b"text/plain",
        b"text/plain; charset=utf-16",
        b"application/octet-stream",
        b"application/xml",
        b"",
    ]
)


@st.composite
def structured(draw: st.DrawFn, event: st.SearchStrategy[Any]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [(b"content-type", b"application/cloudevents+json")], to_json(draw(event))


@st.composite
def batched(draw: st.DrawFn, event: st.SearchStrategy[Any]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [(b"content-type", b"application/cloudevents-batch+json")], to_json(draw(st.lists(event, max_size=4)))


@st.composite
def binary(draw: st.DrawFn, event: st.SearchStrategy[Any]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    attributes = dict(draw(event))
    data = attributes.pop("data", None)
    content_type = attributes.pop("datacontenttype", None)
    headers = []
    for name, value in attributes.items():
        text = value if isinstance(value, str) else to_json(value)[:300].decode()
        headers.append((f"ce-{name}".encode("utf-8", "replace"), quote(text, errors="replace").encode()))
    if content_type is not None and draw(st.booleans()):
        headers.append((b"content-type", str(content_type).encode("utf-8", "replace")))
    return headers, draw(st.just(to_json(data)) | st.just(b"") | st.binary(max_size=50))


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which some were lost, changed or added."""
    body = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3)
            | st.sampled_from([b"NaN", b"1e999", b"[" * 200, b'"\\ud800"', b"{}", b"\xff", b"x" * 5000])
        )
    return bytes(body)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    event = draw(st.sampled_from([events, events, odd_events()]))
    mode: Callable[..., Any] = draw(st.sampled_from([structured, batched, binary]))
    headers, body = draw(mode(event))
    method, path = "POST", "/"
    chance = draw(st.integers(0, 19))
    if chance < 4:
        body = draw(damaged(st.just(body)))
    elif chance < 6:
        headers = [each for each in headers if each[0] != b"content-type"] + [(b"content-type", draw(content_types))]
    elif chance < 8:
        names = st.sampled_from([name for name, _ in headers] or [b"ce-id"]) | st.binary(max_size=8)
        headers = [*headers, (draw(names).lower(), draw(st.binary(max_size=30)))]
    elif chance == 8:
        headers = headers[draw(st.integers(0, len(headers))) :]
    elif chance == 9:
        method = draw(st.sampled_from(["GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "BREW", "TRACE"]))
    elif chance == 10:
        path = draw(st.sampled_from(["/", "//", "/events", "/health", "/nothing/", ""]) | st.text(max_size=20))
    elif chance == 11:
        method, path = (
            draw(st.sampled_from(["GET", "HEAD", "POST"])),
            draw(st.sampled_from(["/health/live", "/health/ready"])),
        )
    elif chance == 12:
        path = "/cancel/" + draw(st.sampled_from(["resident", "nobody", ""]) | st.text(max_size=300))
        body = draw(st.sampled_from([b"", b"{}", b'{"reason": "x"}', b'{"reason": 1}', b"[]"]) | st.binary(max_size=10))
    elif chance == 13:
        headers, body = draw(st.lists(st.tuples(st.binary(max_size=10), st.binary(max_size=10)))), draw(st.binary())
    if draw(st.integers(0, 39)) != 23:  # hypothesis likes the ends of a range
        headers = [*headers, (b"authorization", b"Bearer " + TOKEN.encode())]
    cut = draw(st.integers(0, len(body)))
    return Request(method, path, headers, [body[:cut], body[cut:]])


# -- what becomes of them ----------------------------------------------------------------------------------------------

counts: Counter[tuple[str, int]] = Counter()


def check_answer(way: str, request: Request, answer: Answer) -> bool:
    """Returns whether something may have been stored."""
    counts[way, answer.status] += 1
    assert answer.status in STATUSES, (answer.status, answer.body)
    if request.method == "HEAD" or (way == "hypercorn" and not answer.body):  # Hypercorn's own refusals are empty
        return False
    content = json.loads(answer.body)
    if answer.status == 202:
        return True
    if answer.status != 200:
        assert set(content) <= {"error", "error_type", "retryable", "index"}
        assert isinstance(content["error"], str) and content["retryable"] is False
    assert TOKEN.encode() not in answer.body.replace(b"the token of this app", b"")
    return False


def check_stored(answer: Answer, before: dict[str, list[Any]], after: dict[str, list[Any]]) -> None:
    """What was taken is there, once; and nothing else has come."""
    content = json.loads(answer.body)
    if "cancelled" in content:
        return
    results = content if isinstance(content, list) else [content]
    new = [result for result in results if not result["duplicate"]]
    assert [result["event_id"] for result in new] == [row[1] for row in after["messages"][len(before["messages"]) :]]
    instances = {row[0] for row in after["instances"]}
    started = {result["instance_id"] for result in results if result["instance_id"] is not None}
    assert started <= instances
    assert instances - {row[0] for row in before["instances"]} <= started


async def send_all(way: str, all_requests: list[Request]) -> None:
    async with App(
        ":memory:", web=WebSettings(token=TOKEN, body_limit=BODY_LIMIT), limits=Limits(max_payload=MAX_PAYLOAD)
    ) as app:
        await app.start(web_fuzzed_waits.options(id="resident"))
        if way == "hypercorn":
            async with open_hypercorn(app) as url:
                for request in all_requests:
                    await check_one(way, app, request, url)
        else:
            for request in all_requests:
                await check_one(way, app, request, "")


async def check_one(way: str, app: App, request: Request, url: str) -> None:
    before = await stored(app)
    if way == "hypercorn":
        answer = await send_raw(url, request)
    else:
        answer = await call(app, request.method, request.path, request.headers, request.parts)
    after = await stored(app)
    if answer is not None and check_answer(way, request, answer):
        check_stored(answer, before, after)
    else:
        assert after == before


async def send_raw(url: str, request: Request) -> Answer | None:
    """The request as it would go over a connection, if there were no rules for that."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    path = quote(request.path, errors="replace") if request.path.startswith("/") else request.path
    head = f"{request.method} {path} HTTP/1.1\r\nhost: x\r\n".encode("utf-8", "replace")
    head += b"connection: close\r\ncontent-length: %d\r\n" % len(request.body)
    for name, value in request.headers:
        head += name + b": " + value + b"\r\n"
    answer = b""
    with trio.fail_after(10):
        try:
            async with stream:
                await stream.send_all(head + b"\r\n" + request.body)
                async for part in stream:
                    answer += part
        except trio.BrokenResourceError:
            pass
    if not answer:
        counts["hypercorn", 0] += 1
        return None
    first, _, body = answer.partition(b"\r\n\r\n")
    return Answer(int(first.split()[1]), {}, body)


@pytest.fixture(scope="module", autouse=True)
def summary() -> Iterator[None]:
    yield
    if REQUESTS > 1000:
        for way in ("asgi", "hypercorn"):
            found = {status: number for (each, status), number in sorted(counts.items()) if each == way}
            print(f"\n{way}: {sum(found.values())} requests: {found}")


common = settings(
    deadline=None,
    database=None,
    max_examples=-(-REQUESTS // AT_ONCE),
    suppress_health_check=list(HealthCheck),
)


@common
@given(st.lists(requests(), min_size=AT_ONCE, max_size=AT_ONCE))
def test_the_application_stands_whatever_a_server_hands_it(all_requests: list[Request]) -> None:
    trio.run(send_all, "asgi", all_requests, clock=trio.testing.MockClock(autojump_threshold=0))


@common
@given(st.lists(requests(), min_size=AT_ONCE, max_size=AT_ONCE))
def test_the_server_stands_whatever_comes_over_a_connection(all_requests: list[Request]) -> None:
    trio.run(send_all, "hypercorn", all_requests)
