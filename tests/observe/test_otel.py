"""Spans and metrics, as exporters get them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from trio_romancy import (
    App,
    RetryPolicy,
    WorkflowContext,
    WorkflowError,
    WorkflowFailedError,
    activity,
    compensation,
    workflow,
)
from trio_romancy.otel import OpenTelemetryHooks
from trio_romancy.testing import Crash, How, run_with_crashes

from ..support.probe import probe
from ..support.strange import STRANGE


class Telemetry:
    """The exporters of one process, and its hooks."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.hooks = OpenTelemetryHooks(self._tracers, MeterProvider([self._reader]))
        self.tracer = self._tracers.get_tracer("test")

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._spans.get_finished_spans()

    def metrics(self) -> dict[str, list[Any]]:
        data: Any = self._reader.get_metrics_data()
        found = [metric for r in data.resource_metrics for scope in r.scope_metrics for metric in scope.metrics]
        return {metric.name: list(metric.data.data_points) for metric in found}

    def counts(self, name: str, *attributes: str) -> dict[tuple[Any, ...], Any]:
        """The numbers of a counter or gauge, or the counts of a histogram, by these attributes."""
        return {
            tuple(point.attributes[f"romancy.{one}"] for one in attributes): getattr(point, "value", None)
            if hasattr(point, "value")
            else point.count
            for point in self.metrics()[name]
        }


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def tree(spans: Sequence[ReadableSpan]) -> list[str]:
    """All spans as an indented list, those of one parent in the order in which they began."""
    ids = {span.context.span_id for span in spans if span.context}

    def lines(parent: int | None, indent: str) -> list[str]:
        of_parent = [span for span in spans if (span.parent and span.parent.span_id) == parent]
        return [
            line
            for span in sorted(of_parent, key=lambda span: span.start_time or 0)
            if span.context
            for line in (f"{indent}{span.name}", *lines(span.context.span_id, f"{indent}  "))
        ]

    found = lines(None, "")
    assert len(found) == len(spans), f"orphans: {[s.name for s in spans if s.parent and s.parent.span_id not in ids]}"
    return found


def trace_ids(spans: Sequence[ReadableSpan]) -> set[int]:
    return {span.context.trace_id for span in spans if span.context}


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


failures = 0


@pytest.fixture(autouse=True)
def forget() -> None:
    global failures
    failures = 0


@compensation(name="otel_cancel_trip")
async def cancel_trip(where: str) -> None:
    pass


@activity(name="otel_book", compensation=cancel_trip)
async def book(where: str) -> str:
    return where


@activity(name="otel_pay", retry=RetryPolicy.fixed(2, 1.0))
async def pay(times: int) -> None:
    global failures
    failures += 1
    if failures <= times:
        raise ValueError("no money")


@workflow(name="otel_trip")
async def trip(ctx: WorkflowContext, failing: int) -> None:
    await book("Kyoto")
    await ctx.sleep(3600)
    await pay(failing)


@pytest.mark.parametrize("kind", ["file"], indirect=True)
async def test_one_trace_goes_from_who_starts_a_workflow_through_all_who_run_it(database: str) -> None:
    client, first, second = Telemetry(), Telemetry(), Telemetry()
    async with App(database, worker=False, hooks=[client.hooks]) as app:
        with client.tracer.start_as_current_span("request"):
            await app.start(trip.options(id="trip"), 1)
    async with App(database, worker_id="first", hooks=[first.hooks]):
        await trio.sleep(1)
        assert [span.name for span in first.spans] == ["otel_book"]  # it has ended, and the run has not
    async with App(database, worker_id="second", hooks=[second.hooks]) as app:
        await app.handle("trip").result()
    spans = [*client.spans, *first.spans, *second.spans]
    assert len(trace_ids(spans)) == 1
    assert tree(spans) == [
        "request",
        "  start otel_trip",
        "    run otel_trip",  # on the first worker
        "      otel_book",
        "    run otel_trip",  # on the second, from when the timer was due
        "      otel_pay",
        "      otel_pay",
    ]
    (start,) = named(spans, "start otel_trip")
    assert (start.kind, start.attributes) == (
        SpanKind.PRODUCER,
        {"romancy.workflow": "otel_trip", "romancy.instance_id": "trip"},
    )
    runs = sorted(named(spans, "run otel_trip"), key=lambda span: span.start_time or 0)
    assert [run.kind for run in runs] == [SpanKind.CONSUMER] * 2
    assert [dict(run.attributes or {}) for run in runs] == [
        {
            "romancy.workflow": "otel_trip",
            "romancy.instance_id": "trip",
            "romancy.worker_id": worker,
            "romancy.entries": entries,
            **status,
        }
        for worker, entries, status in [
            ("first", 0, {}),
            ("second", 1, {"romancy.status": "completed"}),
        ]
    ]
    assert [event.name for event in runs[1].events] == ["timer fired"]
    failed, succeeded = sorted(named(spans, "otel_pay"), key=lambda span: span.start_time or 0)
    assert (failed.status.status_code, succeeded.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert [event.name for event in failed.events] == ["exception"]
    assert dict(succeeded.attributes or {}) == {
        "romancy.workflow": "otel_trip",
        "romancy.instance_id": "trip",
        "romancy.operation_id": "otel_pay:1",
        "romancy.attempt": 2,
        "romancy.compensation": False,
    }


@pytest.mark.parametrize("how", [How.WORKER_BEFORE, How.WORKER_AFTER, How.ACTOR_BEFORE, How.ACTOR_AFTER])
def test_a_crash_does_not_break_the_trace(how: How) -> None:
    commit = 0
    while True:
        commit += 1
        telemetry = Telemetry()
        forget_failures()

        async def scenario(app: App, telemetry: Telemetry = telemetry) -> None:
            with telemetry.tracer.start_as_current_span("request"):
                handle = await app.start(trip.options(id="trip"), 1)
            await handle.result()

        if commit not in run_with_crashes(scenario, [Crash(commit, how)], hooks=[telemetry.hooks]).reached:
            break
        assert len(trace_ids(telemetry.spans)) == 1
        assert tree(telemetry.spans)[:2] == ["request", "  start otel_trip"]
        attempts = [*named(telemetry.spans, "otel_book"), *named(telemetry.spans, "otel_pay")]
        runs = {run.context.span_id for run in named(telemetry.spans, "run otel_trip") if run.context}
        assert attempts and all(span.parent and span.parent.span_id in runs for span in attempts)
    assert commit > 3


def forget_failures() -> None:
    global failures
    failures = 0


async def test_a_workflow_that_fails_says_so_in_its_span_and_so_does_its_rollback(telemetry: Telemetry) -> None:
    async with App(":memory:", hooks=[telemetry.hooks], idle_timeout=10**6) as app:
        with pytest.raises(WorkflowError):
            await (await app.start(trip, 5)).result()
    assert tree(telemetry.spans) == [
        "start otel_trip",
        "  run otel_trip",
        "    otel_book",
        "    otel_pay",
        "    otel_pay",
        "    otel_cancel_trip",
    ]
    (run,) = named(telemetry.spans, "run otel_trip")
    assert run.status.status_code is StatusCode.ERROR
    assert "no money" in (run.status.description or "")
    assert run.attributes is not None
    assert run.attributes["error.type"] == "trio_romancy.RetryExhaustedError"
    assert run.attributes["romancy.status"] == "failed"
    (undone,) = named(telemetry.spans, "otel_cancel_trip")
    assert undone.attributes is not None and undone.attributes["romancy.compensation"] is True


async def test_a_cancelled_workflow_is_no_error(telemetry: Telemetry) -> None:
    async with App(":memory:", hooks=[telemetry.hooks]) as app:
        handle = await app.start(trip, 0)
        await trio.sleep(1)
        await handle.cancel()
        with pytest.raises(WorkflowError):
            await handle.result()
    run = named(telemetry.spans, "run otel_trip")[-1]
    assert run.status.status_code is StatusCode.UNSET
    assert run.attributes is not None and run.attributes["romancy.status"] == "cancelled"


async def test_the_span_of_an_activity_is_current_in_it_and_not_elsewhere(telemetry: Telemetry) -> None:
    seen: list[object] = []

    @activity
    async def step() -> None:
        with telemetry.tracer.start_as_current_span("inside"):
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async def child() -> None:
        with telemetry.tracer.start_as_current_span("child"):
            await trio.lowlevel.checkpoint()

    @activity
    def plain() -> None:
        with telemetry.tracer.start_as_current_span("in the thread"):
            pass

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        seen.append(trace.get_current_span())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(step.options(id="a"))
            nursery.start_soon(plain.options(id="b"))
        seen.append(trace.get_current_span())

    async with App(":memory:", hooks=[telemetry.hooks]) as app:
        await (await app.start(flow)).result()
        assert trace.get_current_span() is trace.INVALID_SPAN
    lines = tree(telemetry.spans)
    assert lines[:2] == ["start flow", "  run flow"]
    assert {tuple(lines[2:])} <= {
        ("    step", "      inside", "      child", "    plain", "      in the thread"),
        ("    plain", "      in the thread", "    step", "      inside", "      child"),
    }
    assert seen == [trace.INVALID_SPAN, trace.INVALID_SPAN]


async def test_an_activity_that_is_torn_down_is_no_error(telemetry: Telemetry) -> None:
    @activity(cancellable=True)
    async def endless() -> None:
        await trio.sleep_forever()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        with ctx.move_on_after(5):
            await endless()

    async with App(":memory:", hooks=[telemetry.hooks]) as app:
        await (await app.start(flow)).result()
    (span,) = named(telemetry.spans, "endless")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None and span.attributes["romancy.cancelled"] is True


async def test_metrics_count_and_measure_what_happens(telemetry: Telemetry) -> None:
    async with App(":memory:", worker_id="me", hooks=[telemetry.hooks]) as app:
        for failing in (1, 6):
            forget_failures()
            with trio.CancelScope():
                try:
                    await (await app.start(trip, failing)).result()
                except WorkflowError:
                    pass
        statistics = probe(app).worker.statistics()
        await app.send_event("go", 1)
        await app.publish("news", 1)
        waiting = await app.start(trip, 0)
        await trio.sleep(1)
        assert telemetry.counts("romancy.instances.resident", "worker_id") == {("me",): 1}
        assert telemetry.counts("romancy.instances.idle", "worker_id") == {("me",): 1}
        batches = telemetry.counts("romancy.batch.size")
        assert await app.cancel(waiting.instance_id)
        with pytest.raises(WorkflowError):
            await waiting.result()
    assert telemetry.counts("romancy.workflows", "workflow", "outcome") == {
        ("otel_trip", "started"): 3,
        ("otel_trip", "replayed"): 2,
        ("otel_trip", "completed"): 1,
        ("otel_trip", "failed"): 1,
        ("otel_trip", "cancelled"): 1,
    }
    assert telemetry.counts("romancy.activities", "activity", "outcome") == {
        ("otel_book", "completed"): 3,
        ("otel_pay", "retried"): 2,
        ("otel_pay", "completed"): 1,
        ("otel_pay", "failed"): 1,
        ("otel_cancel_trip", "completed"): 2,
    }
    assert telemetry.counts("romancy.messages", "kind", "direction") == {("event", "sent"): 1, ("message", "sent"): 1}
    metrics = telemetry.metrics()
    assert telemetry.counts("romancy.workflow.duration", "outcome")["completed",] == 1
    (completed,) = [p for p in metrics["romancy.workflow.duration"] if p.attributes["romancy.outcome"] == "completed"]
    assert completed.sum == pytest.approx(3601, abs=1)
    assert sum(telemetry.counts("romancy.activity.duration", "activity", "outcome").values()) == 9
    assert statistics is not None
    assert batches[()] > statistics.journal.batches > 10
    assert sum(point.count for point in metrics["romancy.lag"]) == 5 + 2  # take-ups and timers
    assert all(point.min >= 0 and point.max < 1 for point in metrics["romancy.lag"])
    assert "romancy.instances.resident" not in metrics  # the app has ended
    assert 0.001 in metrics["romancy.commit.duration"][0].explicit_bounds


async def test_without_a_sdk_nothing_is_stored_and_nothing_fails() -> None:
    async with App(":memory:", hooks=[OpenTelemetryHooks(trace.NoOpTracerProvider())]) as app:
        handle = await app.start(trip, 0)
        (row,) = await probe(app).read(
            lambda connection: connection.exec_driver_sql("SELECT trace FROM romancy_instances").all()
        )
        assert row == (None,)
        await handle.result()


@pytest.mark.parametrize("name", ["group", "isinstance", "traceback", "attributes"])
async def test_a_span_tells_the_recorded_error(telemetry: Telemetry, name: str) -> None:
    @activity(retry=RetryPolicy.no_retry())
    async def fails() -> None:
        if name == "group":
            raise ExceptionGroup("Exceptions from Trio nursery", [ConnectionError("no route"), ValueError("beside")])
        raise STRANGE[name]()

    @workflow
    async def failing_in_telemetry(ctx: WorkflowContext) -> None:
        await fails()

    async with App(":memory:", hooks=[telemetry.hooks]) as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await app.start(failing_in_telemetry)).result()
    spans = {span.name: span for span in telemetry.spans}
    attempt, run = spans["fails"], spans["run failing_in_telemetry"]
    error_type = "ConnectionError" if name == "group" else "shop.Strange"
    (event,) = attempt.events
    assert event.name == "exception" and event.attributes is not None and attempt.attributes is not None
    assert event.attributes["exception.type"] == attempt.attributes["error.type"] == error_type
    assert "Traceback" in str(event.attributes["exception.stacktrace"])
    assert attempt.status.status_code is run.status.status_code is StatusCode.ERROR
    assert attempt.status.description is not None and run.status.description is not None
    assert attempt.status.description.startswith(f"{error_type}: ")
    assert error_type in run.status.description
    assert caught.value.message == run.status.description
