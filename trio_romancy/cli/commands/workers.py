"""``workers``: the workers and their leases."""

from __future__ import annotations

from datetime import UTC, datetime

from ...model import WorkerInfo
from ..call import Call
from ..terminal.wording import Styled, ago


async def list_workers(call: Call) -> None:
    """List the workers, with their leases and the number of instances."""
    async with call.open_app() as app:
        found = await app.list_workers()
    call.answer({"workers": found}, lambda: _show(call, found))


def _show(call: Call, workers: list[WorkerInfo]) -> None:
    now = datetime.now(UTC)
    rows: list[tuple[Styled, ...]] = [
        (worker.worker_id, _lease(worker, now), f"{worker.owned:,}", worker.host, str(worker.pid), worker.version or "")
        for worker in workers
    ]
    if not rows:
        call.screen.line("no workers")
        return
    call.screen.table(("worker", "lease", "instances", "host", "pid", "version"), rows)


def _lease(worker: WorkerInfo, now: datetime) -> Styled:
    left = (worker.expires_at - now).total_seconds()
    if worker.is_alive:
        return f"{max(left, 0):.0f}s left"
    if left > 0:
        return "its process has ended", "red"
    return f"expired {ago(worker.expires_at, now)}", "red"
