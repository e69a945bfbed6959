"""Instances: a table of many, or all facts about one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ..._data.log_fields import visible
from ...model import CancelRequest, Instance, PendingOperation, Status
from .screen import Screen
from .wording import Styled, ago, ahead, at, lasting, long_json

_STYLES = {
    Status.COMPLETED: "green",
    Status.RECURRED: "green",
    Status.FAILED: "red",
    Status.STUCK: "bold red",
    Status.CANCELLED: "yellow",
    Status.COMPENSATING: "yellow",
}


def styled(status: Status) -> Styled:
    """Return a status in its colour."""
    return status.value, _STYLES.get(status, "")


def _standing(instance: Instance, now: datetime) -> Styled:
    """Return the status of an instance, with the request to end it if there is one."""
    if (request := instance.cancel_requested) is None:
        return styled(instance.status)
    return f"{instance.status}, {_requested(request, now)}", "yellow"


def _requested(request: CancelRequest, now: datetime) -> str:
    """Return what was requested, since when, and what the instance waits for."""
    what = "termination requested" if request.terminates else "cancel requested"
    since = "" if request.requested_at is None else f" {ago(request.requested_at, now)}"
    waits = f", waits for {', '.join(request.waits_for)}" if request.waits_for else ""
    return f"{what}{since}{waits}"


def _pending(one: PendingOperation, now: datetime) -> str:
    """Return what an operation in flight waits for, as words."""
    id = visible(one.operation_id)
    what = one.kind if one.name is None else f"{one.kind} {visible(one.name)}"
    if one.subject is not None:
        what += f", subject {visible(one.subject)}"
    if one.attempt is not None:
        what += f", attempt {one.attempt}"
    if one.limit is not None:
        key = "" if one.limit_key is None else f", key {visible(one.limit_key)}"
        place = "" if one.limit_place is None else f", place {one.limit_place:,}"
        what += f", held back by limit {visible(one.limit)}{key}{place}"
    if one.running_since is not None:
        what += f", running since {at(one.running_since)} ({ago(one.running_since, now)})"
    elif one.due_at is not None:
        what += f", until {at(one.due_at)} ({ahead(one.due_at, now)})"
    return f"{what} [{id}]"


def show_instances(screen: Screen, instances: Iterable[Instance]) -> None:
    """Write a table of instances."""
    now = datetime.now(UTC)
    rows = [(one.instance_id, one.workflow, _standing(one, now), ago(one.created_at, now)) for one in instances]
    screen.table(("instance", "workflow", "status", "started"), rows)


def show_instance(screen: Screen, instance: Instance, *, in_full: bool) -> None:
    """Write all facts about one instance except its journal."""
    now = datetime.now(UTC)
    screen.line((instance.instance_id, "bold"))
    facts: list[tuple[str, Styled]] = [
        ("workflow", instance.workflow),
        ("status", styled(instance.status)),
        ("started", f"{at(instance.created_at)} ({ago(instance.created_at, now)})"),
        ("updated", f"{at(instance.updated_at)} ({ago(instance.updated_at, now)})"),
    ]
    for name, when in (("begins", instance.not_before), ("deadline", instance.deadline)):
        if when is not None and when > now:
            facts.append((name, f"{at(when)} ({ahead(when, now)})"))
    if (request := instance.cancel_requested) is not None:
        because = f": {request.reason}" if request.reason else ""
        facts.append(("ending", (_requested(request, now) + because, "yellow")))
    facts += [("" if number else "waits for", _pending(one, now)) for number, one in enumerate(instance.waits_for)]
    if instance.finished_at is not None:
        took = lasting((instance.finished_at - instance.created_at).total_seconds())
        facts.append(("finished", f"{at(instance.finished_at)} (after {took})"))
    others = (("worker", instance.worker_id), ("parent", instance.parent_id), ("continues", instance.continued_from))
    facts += [(name, id) for name, id in others if id is not None]
    if instance.error is not None:
        said = f"{instance.error.error_type}: {instance.error.message}".strip(": ")
        facts.append(("error", (said or "it was cancelled", "red")))
        if instance.error.uncompensated:
            facts.append(("not undone", (", ".join(instance.error.uncompensated), "bold red")))
    screen.facts(facts)
    data = [("input", instance.input), ("details", instance.details), ("at the end", instance.last_details)]
    if instance.error is not None:
        data.append(("details of the error", instance.error.details))
    if instance.status is Status.COMPLETED:
        data.append(("output", instance.output))
    for name, value in data:
        if value is not None:
            _show_data(screen, name, long_json(value))
    if in_full and instance.error is not None and instance.error.traceback:
        screen.line(("traceback", "dim"))
        screen.lines(instance.error.traceback, indent=2)


def _show_data(screen: Screen, name: str, text: str) -> None:
    if "\n" not in text:
        screen.facts([(name.ljust(len("finished")), text)])
    else:
        screen.line((name, "dim"))
        screen.lines(text, indent=2)
