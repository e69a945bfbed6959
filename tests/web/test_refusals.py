"""What is refused over HTTP is refused whole: a status that says why, one form of error, and nothing stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from trio_romancy import App, Limits, WebSettings, WorkflowContext, workflow
from trio_romancy.web.events import MAX_BATCH

from ..support.databases import ALL_KINDS
from .serving import BATCHED, BINARY, EVENT, NOTHING, STRUCTURED, Answer, call, stored


@workflow(event_handler=True)
async def web_refuses(ctx: WorkflowContext, name: str, count: int) -> str:
    return name * count


@pytest.fixture(params=ALL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def check_error(answer: Answer | None, status: int, *, retryable: bool = False) -> dict[str, Any]:
    assert answer is not None
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = json.loads(answer.body)
    assert (answer.status, error["retryable"]) == (status, retryable), error
    assert isinstance(error["error"], str) and isinstance(error["error_type"], str)
    return error


async def refused(
    database: str, headers: Mapping[str, str], body: bytes, status: int = 400, **options: Any
) -> dict[str, Any]:
    async with App(database, **options) as app:
        error = check_error(await call(app, "POST", "/", headers, [body]), status)
        assert await stored(app) == NOTHING
        return error


def structured(**changes: Any) -> bytes:
    return json.dumps(EVENT | changes).encode()


BAD_EVENTS: list[Any] = [
    pytest.param(b"", "it is not JSON", id="nothing"),
    pytest.param(b"{", "it is not JSON", id="half"),
    pytest.param(b"[]", "an event is a JSON object", id="array"),
    pytest.param(b"null", "an event is a JSON object", id="null"),
    pytest.param(b'"\xff"', "it is not UTF-8", id="latin-1"),
    pytest.param(json.dumps(EVENT).encode("utf-16"), "it is not UTF-8", id="utf-16"),
    pytest.param(b"\xef\xbb\xbf" + structured(), "it is not JSON", id="byte order mark"),
    pytest.param(structured() + b"x", "it is not JSON", id="more behind it"),
    pytest.param(structured(data=[0]).replace(b"[0]", b"[NaN]"), "JSON has no NaN", id="NaN"),
    pytest.param(structured(data=[0]).replace(b"[0]", b"-Infinity"), "JSON has no -Infinity", id="-Infinity"),
    pytest.param(structured(data=[0]).replace(b"[0]", b"1e999"), "JSON has no inf", id="float out of range"),
    pytest.param(structured(data=[0]).replace(b"[0]", b"1" * 5000), "4300 digits", id="int out of range"),
    pytest.param(structured(data="\ud800"), "half a surrogate pair", id="lone surrogate"),
    pytest.param(structured(**{"\udfff": 1}), "half a surrogate pair", id="lone surrogate in a name"),
    pytest.param(structured(data=0).replace(b": 0}", b": " + b"[" * 101 + b"]" * 101 + b"}"), "100 levels", id="deep"),
    pytest.param(structured(data={}).replace(b"{}", b'{"a": 1, "b": 2, "a": 1}'), "the key 'a' twice", id="key twice"),
    pytest.param(structured(data=1).replace(b"1}", b'1, "id": "2"}'), "the key 'id' twice", id="attribute twice"),
    pytest.param(
        structured(data={}).replace(b"{}", b'{"a": 1, "\\u0061": 1, "x": "%s"}' % (b"x" * 200_000)),
        "the key 'a' twice",
        id="key twice in a large event",
    ),
    pytest.param(b"[" * 1_000_000, "100 levels", id="very deep"),
    pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "100 levels", id="very deep objects"),
    *(
        pytest.param(
            json.dumps({n: v for n, v in EVENT.items() if n != name}).encode(), f"has no {name}", id=f"no {name}"
        )
        for name in EVENT
    ),
    pytest.param(structured(id=None), "has no id", id="null id"),
    pytest.param(structured(id=""), "'id' must be text of 1 to 255 characters", id="empty id"),
    pytest.param(structured(id=3), "'id' must be text", id="number as id"),
    pytest.param(structured(id="x" * 256), "'id' must be text of 1 to 255 characters", id="long id"),
    pytest.param(structured(source="x" * 256), "'source' must be text of 1 to 255", id="long source"),
    pytest.param(structured(type="x" * 256), "'type' must be text of 1 to 255", id="long type"),
    pytest.param(structured(subject="x" * 256), "'subject' must be text of 1 to 255", id="long subject"),
    pytest.param(structured(romancyinstance="x" * 256), "'romancyinstance' must be text", id="long instance id"),
    pytest.param(structured(id="a\0b"), "'id' must be text", id="NUL"),
    pytest.param(structured(id="a\nb"), "'id' has a control character", id="newline"),
    pytest.param(structured(extension="\x7f"), "'extension' has a control character", id="control character"),
    pytest.param(structured(subject=""), "'subject' must be text", id="empty subject"),
    pytest.param(structured(specversion="0.3"), "'specversion' must be '1.0'", id="other version"),
    pytest.param(structured(specversion=1.0), "'specversion'", id="version as a number"),
    pytest.param(structured(extension={}), "'extension' must be text, a whole number, true", id="object as attribute"),
    pytest.param(structured(extension=1.5), "'extension' must be text, a whole number, true", id="float as attribute"),
    pytest.param(structured(extension="x" * 8193), "'extension' may have 8192 characters", id="long attribute"),
    pytest.param(structured(**{"x" * 300: {}}), "x' must be text", id="long name"),
    pytest.param(structured(**{"a-b": "x"}), "lowercase letters and numbers", id="bad name"),
    pytest.param(structured(**{"": "x"}), "at least 1 character", id="empty name"),
    pytest.param(structured(**{f"x{n}": n for n in range(61)}), "64 attributes", id="many attributes"),
    pytest.param(structured(time="noon"), "'time' is not a timestamp", id="bad time"),
    pytest.param(structured(time=3), "'time'", id="time as a number"),
    pytest.param(structured(time="2024-01-01T00:00:00"), "'time' must be timezone aware", id="naive time"),
    pytest.param(structured(time="9999-12-31T23:59:59-01:00"), "'time' is not a timestamp", id="time after time"),
    pytest.param(structured(time="9999-12-31T24:00:00Z"), "'time' is not a timestamp", id="last midnight"),
    pytest.param(structured(time="0001-01-01T00:00:00+01:00"), "'time' is not a timestamp", id="time before time"),
    pytest.param(structured(data_base64="!"), "data_base64 is not base64", id="no base64"),
    pytest.param(structured(data_base64="é"), "data_base64 is not base64", id="no ASCII"),
    pytest.param(structured(data_base64=3), "data_base64 is not base64", id="number as base64"),
    pytest.param(
        structured(data_base64="bm8gSlNPTg==", datacontenttype="text/json"), "the data cannot be read", id="no JSON"
    ),
    pytest.param(
        structured(data_base64="eyJhIjoxLCJhIjoxfQ==", datacontenttype="text/json"),
        "the key 'a' twice",
        id="key twice in base64",
    ),
    pytest.param(structured(data_base64="YQ==", data=None), "data or data_base64, not both", id="data twice"),
    pytest.param(
        structured(type="web_refuses", data={"name": 1}), "$.name: expected str, got 1; $.count: missing", id="input"
    ),
    pytest.param(structured(type="web_refuses", data=[1]), "$: expected an object, got list", id="array as input"),
    pytest.param(structured(type="web_refuses"), "$.name: missing", id="no input"),
    pytest.param(structured(romancyinstance="nobody"), "there is no instance 'nobody'", id="unknown instance"),
]


@pytest.mark.parametrize(("body", "message"), BAD_EVENTS)
async def test_a_bad_event_is_refused(body: bytes, message: str) -> None:
    error = await refused(":memory:", STRUCTURED, body)
    assert message in error["error"]
    assert len(error["error"]) < 3000


@pytest.mark.parametrize(("body", "message"), [case for case in BAD_EVENTS if b"[" * 200 not in case.values[0]])
async def test_a_bad_event_in_a_batch_is_named_and_the_batch_is_refused_whole(body: bytes, message: str) -> None:
    good = json.dumps(EVENT | {"id": "good"}).encode()
    error = await refused(":memory:", BATCHED, b"[" + good + b"," + body + b"," + good + b"]")
    if error["error_type"] != "InvalidEvent" or "batch cannot be read" not in error["error"]:
        assert message in error["error"]
        assert error["index"] == 1
        assert error["error"].startswith("event 1 of the batch (counted from 0): ")


@pytest.mark.parametrize(
    "changes",
    [{"romancyinstance": "nobody"}, {"type": "web_refuses", "data": {}}, {"data": "x" * 2000}],
    ids=["unknown instance", "input", "too large"],
)
async def test_nothing_of_a_bad_batch_is_stored_on_any_database(database: str, changes: dict[str, Any]) -> None:
    batch = [EVENT | {"id": "1"}, EVENT | {"id": "2"} | changes]
    status = 413 if len(str(changes)) > 1000 else 400
    error = await refused(database, BATCHED, json.dumps(batch).encode(), status, limits=Limits(max_payload=1000))
    assert error["index"] == 1


@pytest.mark.parametrize("body", [b"{}", b"1", b'"[]"', b"null"])
async def test_a_batch_is_an_array(body: bytes) -> None:
    assert (await refused(":memory:", BATCHED, body))["error"] == "a batch is an array of events"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ce-id": None}, "has no id"),
        ({"ce-specversion": None, "ce-type": None}, "has no specversion and no type"),
        ({"ce-specversion": "2.0"}, "'specversion' must be '1.0'"),
        ({"ce-id": ""}, "'id' must be text"),
        ({"ce-id": "x" * 256}, "'id' must be text"),
        ({"ce-id": "%00"}, "'id' must be text"),
        ({"ce-id": "%0A"}, "control character"),
        ({"ce-id": "%ED%A0%80"}, "ce-id must be ASCII"),
        ({"ce-id": "%FF"}, "ce-id must be ASCII"),
        ({"ce-id": "\xe9"}, "ce-id must be ASCII"),
        ({"ce-time": "yesterday"}, "'time' is not a timestamp"),
        ({"ce-time": "2024-01-01"}, "timezone"),
        ({"ce-data": "x"}, "reserved"),
        ({"ce-data_base64": "YQ=="}, "lowercase letters and numbers"),
        ({"ce-": "x"}, "at least 1 character"),
        ({"ce-a-b": "x"}, "lowercase letters and numbers"),
        ({"ce-datacontenttype": "text/plain"}, "Content-Type"),
        ({"ce-subject": ""}, "'subject' must be text"),
        ({"content-type": "application/json"}, "the data cannot be read: it is not JSON"),
        ({"content-type": None}, "the data cannot be read: it is not JSON"),
        ({"content-type": "text/plain"}, "not text in UTF-8"),
    ],
)
async def test_bad_headers_are_refused_in_binary_mode(changes: dict[str, str | None], message: str) -> None:
    headers = {name: value for name, value in (BINARY | changes).items() if value is not None}
    body = b"{}" if "content-type" not in changes else b"\xff" if headers.get("content-type") == "text/plain" else b"{"
    assert message in (await refused(":memory:", headers, body))["error"]


async def test_an_attribute_that_is_given_twice_is_refused() -> None:
    headers = [(name.encode(), value.encode()) for name, value in BINARY.items()]
    async with App(":memory:") as app:
        error = check_error(await call(app, "POST", "/", [*headers, (b"ce-id", b"2")]), 400)
        assert error["error"] == "there are several ce-id headers"
        error = check_error(await call(app, "POST", "/", [*headers, (b"content-type", b"text/plain")] * 2), 400)
        assert error["error"] == "there are several Content-Type headers"
        assert await stored(app) == NOTHING


# -- content types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/plain",
        "",
        "application/cloudevents+avro",
        "application/cloudevents",
        "application/cloudevents-batch+xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
async def test_what_is_in_none_of_the_content_modes_is_refused(content_type: str) -> None:
    headers = {"content-type": content_type}
    assert (await refused(":memory:", headers, structured(), 415))["error_type"] == "UnsupportedMediaType"


async def test_a_format_that_is_not_spoken_is_refused_whatever_the_headers() -> None:
    await refused(":memory:", BINARY | {"content-type": "application/cloudevents+avro"}, b"", 415)
    await refused(":memory:", BINARY | {"content-type": "text/plain; charset=latin-1"}, b"x", 415)


async def test_a_request_without_a_content_type_is_refused() -> None:
    await refused(":memory:", {}, b"", 415)


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("promised", [True, False], ids=["content-length", "chunked"])
async def test_a_body_over_the_limit_is_refused_and_not_read_further(promised: bool) -> None:
    parts = [b"x" * 1000 for _ in range(1000)]
    headers = STRUCTURED | ({"content-length": str(1_000_000)} if promised else {})
    read = 0

    def counted() -> Any:
        nonlocal read
        for part in parts:
            read += 1
            yield part

    async with App(":memory:", web=WebSettings(body_limit=10_000)) as app:
        error = check_error(await call(app, "POST", "/", headers, counted()), 413)
        assert error["error"] == "the body of a request may have 10000 bytes here"
        assert read <= (1 if promised else 11) + 5  # what comes while it answers is dropped
        assert await stored(app) == NOTHING


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "x", "1e9", "²", " 5"])
async def test_a_nonsensical_content_length_is_no_problem(length: str) -> None:
    async with App(":memory:") as app:
        headers = [(b"content-type", b"application/cloudevents+json"), (b"content-length", length.encode("utf-8"))]
        answer = await call(app, "POST", "/", headers, [structured()])
        assert answer is not None and answer.status in (202, 413)


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    body = structured()
    async with App(":memory:", web=WebSettings(body_limit=len(body))) as app:
        answer = await call(app, "POST", "/", STRUCTURED, [body])
        assert answer is not None and answer.status == 202
        check_error(await call(app, "POST", "/", STRUCTURED, [body + b" "]), 413)


@pytest.mark.parametrize("type", ["web_nobody_waits", "web_refuses"])
async def test_data_beyond_max_payload_are_refused(database: str, type: str) -> None:
    data = {"name": "\N{PILE OF POO}" * 50, "count": 1}
    error = await refused(database, STRUCTURED, structured(type=type, data=data), 413, limits=Limits(max_payload=500))
    assert error["error_type"] == "PayloadTooLargeError"
    assert "max_payload is 500" in error["error"]


async def test_metadata_count_as_payload() -> None:
    error = await refused(":memory:", STRUCTURED, structured(extension="x" * 1000), 413, limits=Limits(max_payload=500))
    assert error["error_type"] == "PayloadTooLargeError"


async def test_a_batch_of_too_many_events_is_refused() -> None:
    batch = [EVENT | {"id": str(number)} for number in range(MAX_BATCH + 1)]
    error = await refused(":memory:", BATCHED, json.dumps(batch).encode(), 413)
    assert error["error"] == f"a batch may have {MAX_BATCH} events here, this one has {MAX_BATCH + 1}"


async def test_a_long_story_is_cut() -> None:
    data = {f"unknown{number}": 1 for number in range(10_000)}
    error = await refused(":memory:", STRUCTURED, structured(type="web_refuses", data=data))
    assert len(error["error"]) < 2100


# -- paths, methods, clients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 405),
        ("PUT", "/", 405),
        ("OPTIONS", "/", 405),
        ("BREW", "/", 405),
        ("POST", "/health/live", 405),
        ("DELETE", "/health/ready", 405),
        ("GET", "/nothing", 404),
        ("POST", "/events", 404),
        ("POST", "//", 404),
        ("GET", "/health", 404),
        ("GET", "/health/", 404),
        ("GET", "/health/live/", 404),
        ("GET", "/favicon.ico", 404),
        ("POST", "", 404),
        ("OPTIONS", "*", 404),
    ],
)
async def test_what_is_not_there_is_answered_in_the_same_form(method: str, path: str, status: int) -> None:
    async with App(":memory:") as app:
        answer = await call(app, method, path, STRUCTURED, [structured()])
        error = check_error(answer, status)
        assert error["error_type"] == {404: "NotFound", 405: "MethodNotAllowed"}[status]
        assert answer is not None and (status != 405 or answer.headers["allow"])
        assert await stored(app) == NOTHING


async def test_a_client_that_leaves_in_the_middle_of_its_event_stores_nothing() -> None:
    async with App(":memory:") as app:
        await call(app, "POST", "/", STRUCTURED, [structured()[:20]], ends=False)
        await call(app, "POST", "/", STRUCTURED, [structured()], ends=False)
        assert await stored(app) == NOTHING


async def test_a_server_that_cannot_send_before_it_has_handed_over_the_rest_of_the_body_can_do_so() -> None:
    """Hypercorn is one, if the rest is in more than ten parts: its reader and the answer would wait for each other."""
    left = 50
    room = trio.Semaphore(0)
    done = trio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal left
        await trio.lowlevel.checkpoint()
        left -= 1
        room.release()
        if left < 0:
            await trio.sleep_forever()
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: Any) -> None:
        for _ in range(20):
            await room.acquire()
        if message["type"] == "http.response.body":
            done.set()

    scope = {"type": "http", "method": "POST", "path": "/", "root_path": "", "query_string": b""}
    async with App(":memory:", web=WebSettings(body_limit=1)) as app:
        with trio.fail_after(10):
            headers = [(b"content-type", b"application/cloudevents+json")]
            await app.asgi(scope | {"headers": headers}, receive, send)
        assert done.is_set()


@pytest.mark.parametrize("event", ["before", "after"])
async def test_an_app_that_does_not_run_says_so(event: str) -> None:
    app = App(":memory:")
    asgi = app.asgi
    if event == "after":
        async with app:
            assert app.asgi is asgi
    for body in (structured(), structured(type="web_refuses", data={"name": "a", "count": 1})):
        answer = await call(app, "POST", "/", STRUCTURED, [body])
        error = check_error(answer, 503, retryable=True)
        assert "the app is not running" in error["error"]
        assert answer is not None and int(answer.headers["retry-after"]) > 0
