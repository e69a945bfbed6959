"""Hooks that make traces and metrics for OpenTelemetry. Needs the extra ``trio_romancy[otel]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import trio

from ._data.failure import describe
from .errors import RomancyError
from .hooks import ActivityInfo, BatchInfo, Hooks, LeaseInfo, MessageInfo, TimerInfo, WorkflowInfo
from .model import Status

try:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
    from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, get_tracer, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as _missing:
    raise RomancyError(f"{_missing.name} is missing: pip install 'trio_romancy[otel]'") from _missing

if TYPE_CHECKING:
    from ._runtime.worker.supervisor import SupervisorStatistics
    from .app import App

Attributes = dict[str, str | bool | int]

_NAME = "trio_romancy"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400)
"""Upper bounds of the buckets of durations."""
_WRITES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

_propagator = TraceContextTextMapPropagator()


class OpenTelemetryHooks(Hooks):
    """Makes spans of workflows and activities, in one trace across processes and crashes, and metrics.

    Pass it as ``App(..., hooks=(OpenTelemetryHooks(),))``. :meth:`App.start` stores the W3C trace context of its caller
    with the instance, so that every worker that runs it continues the trace. The span of an activity is current while
    the activity runs, also in a thread: spans that it makes become children of that span.

    Args:
      tracer_provider: provider for the spans; None: the global one.
      meter_provider: provider for the metrics; None: the global one.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = get_tracer(_NAME, tracer_provider=tracer_provider)
        self._runs: dict[tuple[str, str], Span] = {}
        """Spans of instances in memory, by worker and instance id."""
        self._apps: dict[App, None] = {}
        meter = get_meter(_NAME, meter_provider=meter_provider)
        counter, histogram, gauge = meter.create_counter, meter.create_histogram, meter.create_observable_gauge
        self._workflows = counter("romancy.workflows", "{workflow}", "Workflows by outcome")
        self._activities = counter("romancy.activities", "{attempt}", "Attempts by outcome")
        self._messages = counter("romancy.messages", "{message}", "Events and messages, sent and received")
        self._leases_lost = counter("romancy.leases.lost", "{lease}", "Leases that workers have lost")
        self._workflow_duration = histogram(
            "romancy.workflow.duration",
            "s",
            "Time from the start of a workflow to its end",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._activity_duration = histogram(
            "romancy.activity.duration", "s", "Duration of attempts", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._commit_duration = histogram(
            "romancy.commit.duration",
            "s",
            "Duration of journal commits",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._batch_size = histogram(
            "romancy.batch.size", "{write}", "Writes in one commit", explicit_bucket_boundaries_advisory=_WRITES
        )
        self._lag = histogram(
            "romancy.lag",
            "s",
            "Delay of workflows and timers after they were due",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        gauge("romancy.instances.resident", [self._observe_resident], "{instance}", "Instances in memory")
        gauge("romancy.instances.idle", [self._observe_idle], "{instance}", "Instances in memory that only wait")

    # -- traces ----------------------------------------------------------------------------------------------------

    def trace_context(self, workflow: str, instance_id: str) -> Mapping[str, str]:
        """Make a span of the start, and return its W3C context for the workers that run the instance."""
        attributes = {"romancy.workflow": workflow, "romancy.instance_id": instance_id}
        carrier: dict[str, str] = {}
        with self._tracer.start_as_current_span(f"start {workflow}", kind=SpanKind.PRODUCER, attributes=attributes):
            _propagator.inject(carrier)
        return carrier

    def around_activity(self, activity: ActivityInfo) -> AbstractContextManager[None]:
        """Return a context manager in which the span of the attempt is the current one."""
        return self._attempt(activity)

    @contextmanager
    def _attempt(self, activity: ActivityInfo) -> Iterator[None]:
        run = self._runs.get((activity.worker_id, activity.instance_id))
        attributes: Attributes = {
            "romancy.workflow": activity.workflow,
            "romancy.instance_id": activity.instance_id,
            "romancy.operation_id": activity.operation_id,
            "romancy.attempt": activity.attempt,
            "romancy.compensation": activity.is_compensation,
        }
        parent = Context() if run is None else set_span_in_context(run, Context())
        with self._tracer.start_as_current_span(
            activity.name, parent, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except trio.Cancelled:
                span.set_attribute("romancy.cancelled", True)
                raise
            except BaseException as error:
                failure = describe(error)  # as it is recorded: a group says nothing of what is in it
                said = {
                    "exception.type": failure.error_type,
                    "exception.message": failure.message,
                    "exception.stacktrace": failure.traceback,
                }
                span.add_event("exception", said)
                span.set_attribute("error.type", failure.error_type)
                span.set_status(StatusCode.ERROR, f"{failure.error_type}: {failure.message}")
                raise

    def _begin_run(self, workflow: WorkflowInfo) -> None:
        attributes: Attributes = {
            "romancy.workflow": workflow.workflow,
            "romancy.instance_id": workflow.instance_id,
            "romancy.worker_id": workflow.worker_id,
            "romancy.entries": workflow.entries,
        }
        self._lag.record(workflow.lag, {"romancy.workflow": workflow.workflow})
        self._runs[workflow.worker_id, workflow.instance_id] = self._tracer.start_span(
            f"run {workflow.workflow}",
            _propagator.extract(workflow.trace, Context()),
            SpanKind.CONSUMER,
            attributes,
        )

    def _end_workflow(self, workflow: WorkflowInfo, status: Status) -> None:
        attributes = {"romancy.workflow": workflow.workflow, "romancy.outcome": str(status)}
        self._workflows.add(1, attributes)
        if status.is_final:
            self._workflow_duration.record(workflow.age, attributes)
        run = self._runs.get((workflow.worker_id, workflow.instance_id))
        if run is not None:
            run.set_attribute("romancy.status", str(status))
            if workflow.error is not None and status in (Status.FAILED, Status.STUCK):
                run.set_attribute("error.type", workflow.error.error_type)
                run.set_status(StatusCode.ERROR, workflow.error.message)

    def _add_event(self, what: MessageInfo | TimerInfo, name: str, attributes: Mapping[str, str]) -> None:
        run = self._runs.get((what.worker_id or "", what.instance_id or ""))
        if run is not None:
            run.add_event(name, {**attributes, "romancy.operation_id": what.operation_id or ""})

    # -- workflows -------------------------------------------------------------------------------------------------

    def workflow_started(self, workflow: WorkflowInfo) -> None:
        self._workflows.add(1, {"romancy.workflow": workflow.workflow, "romancy.outcome": "started"})
        self._begin_run(workflow)

    def workflow_replayed(self, workflow: WorkflowInfo) -> None:
        self._workflows.add(1, {"romancy.workflow": workflow.workflow, "romancy.outcome": "replayed"})
        self._begin_run(workflow)

    def workflow_completed(self, workflow: WorkflowInfo) -> None:
        self._end_workflow(workflow, Status.COMPLETED)

    def workflow_failed(self, workflow: WorkflowInfo) -> None:
        self._end_workflow(workflow, Status.FAILED)

    def workflow_cancelled(self, workflow: WorkflowInfo) -> None:
        self._end_workflow(workflow, Status.CANCELLED)

    def workflow_recurred(self, workflow: WorkflowInfo) -> None:
        self._end_workflow(workflow, Status.RECURRED)

    def instance_stuck(self, workflow: WorkflowInfo) -> None:
        self._end_workflow(workflow, Status.STUCK)

    def instance_dropped(self, workflow: WorkflowInfo) -> None:
        run = self._runs.pop((workflow.worker_id, workflow.instance_id), None)
        if run is not None:
            run.end()

    # -- activities ------------------------------------------------------------------------------------------------

    def _end_attempt(self, activity: ActivityInfo, outcome: str) -> None:
        attributes: Attributes = {
            "romancy.workflow": activity.workflow,
            "romancy.activity": activity.name,
            "romancy.compensation": activity.is_compensation,
            "romancy.outcome": outcome,
        }
        self._activities.add(1, attributes)
        self._activity_duration.record(activity.duration, attributes)

    def activity_completed(self, activity: ActivityInfo) -> None:
        self._end_attempt(activity, "completed")

    def activity_failed(self, activity: ActivityInfo) -> None:
        self._end_attempt(activity, "failed")

    def activity_retried(self, activity: ActivityInfo) -> None:
        self._end_attempt(activity, "retried")

    def activity_cancelled(self, activity: ActivityInfo) -> None:
        self._end_attempt(activity, "cancelled")

    def compensation_completed(self, compensation: ActivityInfo) -> None:
        self._end_attempt(compensation, "completed")

    def compensation_failed(self, compensation: ActivityInfo) -> None:
        self._end_attempt(compensation, "failed")

    def compensation_retried(self, compensation: ActivityInfo) -> None:
        self._end_attempt(compensation, "retried")

    # -- events, messages, timers ----------------------------------------------------------------------------------

    def event_sent(self, event: MessageInfo) -> None:
        self._messages.add(1, {"romancy.kind": "event", "romancy.direction": "sent"})

    def event_received(self, event: MessageInfo) -> None:
        self._messages.add(1, {"romancy.kind": "event", "romancy.direction": "received"})
        self._add_event(event, "event received", {"romancy.channel": event.channel})

    def message_sent(self, message: MessageInfo) -> None:
        self._messages.add(1, {"romancy.kind": "message", "romancy.direction": "sent"})

    def message_received(self, message: MessageInfo) -> None:
        self._messages.add(1, {"romancy.kind": "message", "romancy.direction": "received"})
        self._add_event(message, "message received", {"romancy.channel": message.channel})

    def timer_fired(self, timer: TimerInfo) -> None:
        self._lag.record(timer.lag, {"romancy.workflow": timer.workflow})
        self._add_event(timer, "timer fired", {"romancy.kind": str(timer.kind)})

    # -- the worker ------------------------------------------------------------------------------------------------

    def app_opened(self, app: App) -> None:
        self._apps[app] = None

    def app_closed(self, app: App) -> None:
        del self._apps[app]

    def batch_committed(self, batch: BatchInfo) -> None:
        self._commit_duration.record(batch.duration)
        self._batch_size.record(batch.writes)

    def lease_lost(self, lease: LeaseInfo) -> None:
        self._leases_lost.add(1, {"romancy.worker_id": lease.worker_id})

    def _observe_resident(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(numbers.resident, {"romancy.worker_id": id}) for id, numbers in self._supervisors()]

    def _observe_idle(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(numbers.idle, {"romancy.worker_id": id}) for id, numbers in self._supervisors()]

    def _supervisors(self) -> Iterator[tuple[str, SupervisorStatistics]]:
        """Yield the statistics of all open apps. Called in the thread that exports metrics."""
        for app in list(self._apps):
            try:
                worker = app.statistics().worker
            except RomancyError:
                continue  # the app is being opened or closed
            if worker is not None:
                yield worker.worker_id, worker.supervisor
