"""The rows that three trivial activities write, through the journal alone, without the runtime."""

from __future__ import annotations

import time
from functools import partial

import trio
import trio_asyncio

from trio_romancy._storage import migrations
from trio_romancy._storage.journal.committed import Committed
from trio_romancy._storage.journal.journal import Journal
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql.instances import closing_row, new_row
from trio_romancy._storage.sql.rows import EntryRow
from trio_romancy._storage.sql.workers import join, this_process
from trio_romancy.clock import current_clock
from trio_romancy.model import EntryKind, Status


class _Silent:
    """Takes no note of anything."""

    def committed(self, committed: Committed) -> None:
        pass

    def refused(self, instance_id: str, error: Exception) -> None:
        pass

    def lost(self) -> None:
        pass


async def run(database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
    """Return the seconds for all, and for each workflow."""
    latencies: list[float] = []
    clock = current_clock()
    async with trio_asyncio.open_loop(), open_database(database) as opened, trio.open_nursery() as nursery:
        await opened.run(migrations.migrate)
        now = clock.now()
        lease = await opened.run(join, "bench", this_process(), now, now + 10_000_000)
        assert lease is not None
        journal = Journal(opened, lease, clock, 10_000_000, _Silent())
        nursery.start_soon(journal.run)
        left = iter(range(total))

        async def client() -> None:
            for number in left:
                begun = time.perf_counter()
                id = f"instance-{number:028}"
                row = partial(_entry, id)
                now = clock.now()
                new = new_row(id, "order", f'{{"order_id":"o{number}","amount":9.5}}', now, owner="bench")
                await journal.start(new, [], id_is_new=True)
                await journal.durable(journal.append_entry(row(1, "reserve:1", f'{{"result":"RES-o{number}"}}')))
                await journal.durable(journal.append_entry(row(2, "charge:1", '{"result":9.5}')))
                journal.append_entry(row(3, "ship:1", f'{{"result":"TRACK-o{number}"}}'))
                end = closing_row(id, Status.COMPLETED, now, owner=None, output=f'"TRACK-o{number}"', error=None)
                await journal.close(end, row(4, "", "null", EntryKind.WORKFLOW_COMPLETED))
                latencies.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        async with trio.open_nursery() as clients:
            for _ in range(concurrency):
                clients.start_soon(client)
        elapsed = time.perf_counter() - begun
        nursery.cancel_scope.cancel()
    return elapsed, latencies


def _entry(
    id: str, seq: int, operation_id: str, payload: str, kind: EntryKind = EntryKind.ACTIVITY_COMPLETED
) -> EntryRow:
    return {
        "instance_id": id,
        "seq": seq,
        "operation_id": operation_id,
        "kind": kind,
        "payload": payload,
        "recorded_at": 1_700_000_000_000_000,
    }
