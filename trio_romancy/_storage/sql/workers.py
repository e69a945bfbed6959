"""SQL about workers and their leases.

A lease is a row. A worker may write as long as it can update the row under the epoch that it knows. To end a lease is
to delete the row or to raise its epoch, in the transaction that also frees the worker's instances.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from attrs import asdict, define, field, frozen
from sqlalchemy import Connection, and_, bindparam, case, delete, func, or_, select, update

from ..._data.readable import readable_time
from ...clock import Microseconds, at_once
from ...errors import CommitsLostError, LeaseLostError
from ...model import Status, WorkerInfo
from ..dialects import file_name, notify_workers, server_time
from ..dialects.sql import insert_if_absent
from .permits import free_permits_of_worker
from .rows import StoredWorker, WorkerRow, fetch_all, fetch_first
from .tables import instances, workers


@frozen
class Process:
    """The process of a worker, so that another process on the same machine can notice its death."""

    host: str
    """Name of the machine, id of its current boot, and the namespace of its process ids."""
    pid: int
    started: str
    """Start of the process, by which a later process with the same id differs; empty if the system does not tell."""
    token: str
    """A random text, which other workers in the same process do not share."""


_UNKNOWN = Process("", 0, "", "")
"""Process of a worker whose row is damaged."""


def this_process() -> Process:
    """Return the current process, with a new token."""
    return Process(_host(), os.getpid(), _started(os.getpid()), secrets.token_hex(8))


def is_dead(process: Process) -> bool:
    """Return whether the process has certainly ended. False if it runs, or is on another machine."""
    if process.host != _host() or os.name != "posix":
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(process.pid) != process.started


def is_seen_to_live(process: Process) -> bool:
    """Return whether the process certainly runs. False if it is stopped, has ended, or is on another machine."""
    if process.host != _host() or is_dead(process):
        return False
    try:
        return _stat(process.pid)[0] not in ("T", "t")  # stopped, or stopped by a debugger: proc(5)
    except (OSError, IndexError):
        return False


@cache
def _host() -> str:
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # not Linux: use the name alone
    return " ".join(parts)


def _started(pid: int) -> str:
    try:
        return _stat(pid)[19]  # in clock ticks since boot
    except (OSError, IndexError):
        return ""


def _stat(pid: int) -> list[str]:
    """Return the status of a process, from field 3 on. The command in field 2 may hold spaces: proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


_may_have_begun = and_(instances.c.recoveries == 0, instances.c.status.in_((Status.RUNNING, Status.COMPENSATING)))
"""Whether an attempt may have begun although that is not recorded: only an instance on probation records it."""


@define(unsafe_hash=True)
class Lease:
    """The right of one worker to write, while its row holds this epoch."""

    worker_id: str
    epoch: int
    committed: int = field(default=0, eq=False)
    """Number of the last batch that was certainly committed under the lease. A database that has an older one has lost
    transactions: a standby was promoted that did not have them yet, or a backup was restored."""


_join = (
    update(workers)
    .where(workers.c.worker_id == bindparam("me"))
    .values(
        epoch=workers.c.epoch + 1,
        batch=0,
        expires_at=bindparam("expires"),
        joined_at=bindparam("now"),
        process=bindparam("process_"),
        version=bindparam("version_"),
        clock=bindparam("clock_"),
    )
)
_fence = (
    update(workers)
    .where(
        workers.c.worker_id == bindparam("me"),
        workers.c.epoch == bindparam("my_epoch"),
        workers.c.batch >= bindparam("committed"),
    )
    .values(expires_at=bindparam("expires"))
)
FENCE_BATCH = _fence.where(workers.c.batch < bindparam("number")).values(batch=bindparam("number"))


def join(
    connection: Connection,
    worker_id: str,
    process: Process,
    now: Microseconds,
    expires_at: Microseconds,
    version: str | None = None,
    *,
    clock: Microseconds | None = None,
    after_death: bool = False,
) -> Lease | None:
    """Take the lease of a worker id under a new epoch, and free the instances that the id owned.

    Args:
      version: the version of the code of the worker's workflows.
      clock: the worker's time minus that of a clock of the machine that cannot be set: see :func:`shared_clock`.
      after_death: whether to count the death of the holder although that is this process, which lives.

    Returns None, and does nothing, if another live process holds the lease.
    """
    locked = select(workers).where(workers.c.worker_id == worker_id).with_for_update()
    row = fetch_first(connection, StoredWorker, locked)
    if row is None:
        # The time is an epoch that no ended lease of this worker id has had.
        new: WorkerRow = {
            "worker_id": worker_id,
            "epoch": now,
            "batch": 0,
            "expires_at": expires_at,
            "joined_at": now,
            "process": _process_text(process),
            "version": version,
            "clock": clock,
        }
        connection.execute(insert_if_absent(workers), new)
        row = fetch_first(connection, StoredWorker, locked)
        assert row is not None
        if _process(row) == process:
            _free(connection, worker_id, now, died=after_death)  # an operator may have deleted the row
            return Lease(worker_id, now)
    holder = _process(row)
    if holder != process and row.expires_at - _ahead(connection, row, clock) > now and not is_dead(holder):
        return None
    values = {"me": worker_id, "expires": expires_at, "now": now, "process_": _process_text(process)}
    connection.execute(_join, values | {"version_": version, "clock_": clock})
    _free(connection, worker_id, now, died=after_death or holder != process)
    return Lease(worker_id, row.epoch + 1)


@frozen
class OtherLease:
    """The lease of another worker, as it was read."""

    worker_id: str
    epoch: int
    expires_at: Microseconds
    is_dead: bool
    """Whether its process has certainly ended."""
    is_seen_to_live: bool
    """Whether its process certainly runs. Neither is known of a process on another machine."""
    is_readable: bool = True
    """False if the row of the worker is damaged."""
    ahead: Microseconds = 0
    """Time of its worker minus that of this one, if the database has no clock that both follow."""


def other_leases(connection: Connection, me: str, clock: Microseconds | None = None) -> list[OtherLease]:
    """Return the leases of all other workers.

    Args:
      clock: the time of the worker ``me`` minus that of a clock of the machine that cannot be set.
    """
    rows = fetch_all(connection, StoredWorker, select(workers).where(workers.c.worker_id != me))
    return [_other(connection, row, clock) for row in rows]


def _other(connection: Connection, row: StoredWorker, clock: Microseconds | None) -> OtherLease:
    process = _process(row)
    return OtherLease(
        row.worker_id,
        row.epoch,
        row.expires_at,
        is_dead(process),
        is_seen_to_live(process),
        process is not _UNKNOWN,
        _ahead(connection, row, clock),
    )


def _ahead(connection: Connection, row: StoredWorker, clock: Microseconds | None) -> Microseconds:
    """Return by how much the time of a worker is ahead of that of another one; 0 if both follow a server, or unknown.

    On a file they differ if the clock of the machine was set while no worker lived. No lease must last longer by that.
    """
    if clock is None or row.clock is None or file_name(connection) is None:
        return 0
    boot = _boot(_host())
    return row.clock - clock if boot and _boot(_process(row).host) == boot else 0


def end_leases(
    connection: Connection,
    ending: Sequence[OtherLease],
    now: Microseconds,
    *,
    by_server: bool = False,
    may_end: Callable[[], bool] = lambda: True,
) -> list[OtherLease]:
    """End leases of dead processes, and leases that have expired, and free the instances of those workers.

    A lease that was renewed since it was read is left alone.

    Args:
      by_server: whether the server's clock says what has expired, if it has one, and not ``now``.
      may_end: called once the rows are locked. Returns False if only the leases of dead processes may end: since they
        were read, an outage has kept the others from being renewed.

    Returns the leases that were ended.
    """
    ended = []
    expired = server_time(connection) if by_server else None
    # The worker of a locked row is committing a batch. If its process stands still, the server ends that batch first.
    locked = select(workers).where(workers.c.worker_id.in_([one.worker_id for one in ending]))
    rows = {row.worker_id: row for row in fetch_all(connection, StoredWorker, locked.with_for_update(skip_locked=True))}
    is_sure = may_end()
    for one in ending:
        row = rows.get(one.worker_id)
        if row is None or row.epoch != one.epoch:
            continue
        if not one.is_dead and (row.expires_at != one.expires_at or not is_sure):
            continue
        # The worker may be late, and prolong its lease at the same time.
        expired_by = None if one.is_dead else now + one.ahead if expired is None else expired
        if _end(connection, Lease(one.worker_id, one.epoch), expired_by):
            _free(connection, one.worker_id, now, died=True)
            ended.append(one)
    return ended


def end_dead_leases(connection: Connection, me: str, now: Microseconds) -> None:
    """End the leases of workers whose processes have certainly ended, and free their instances."""
    end_leases(connection, [one for one in other_leases(connection, me) if one.is_dead], now)


def end_lease_of_dead(connection: Connection, worker_id: str, now: Microseconds) -> bool:
    """End the lease of a worker, and free its instances, if its process has certainly ended. Returns whether it has."""
    held = select(workers).where(workers.c.worker_id == worker_id).with_for_update(skip_locked=True)
    row = fetch_first(connection, StoredWorker, held)
    if row is None or not is_dead(_process(row)) or not _end(connection, Lease(worker_id, row.epoch)):
        return False
    _free(connection, worker_id, now, died=True)
    return True


def shared_clock(connection: Connection, steady: Microseconds) -> Microseconds | None:
    """Return by how much the time of live workers on this machine is ahead of the clock that cannot be set.

    If the machine's clock was set since they joined, that differs from what the machine shows. The worker that joined
    first counts. None without live workers.

    Args:
      steady: what the clock that cannot be set shows now. It is the same for all processes since the machine's boot.
    """
    boot = _boot(_host())
    for row in fetch_all(connection, StoredWorker, select(workers).order_by(workers.c.joined_at)):
        process = _process(row)
        if row.clock is None or not boot or _boot(process.host) != boot or is_dead(process):
            continue
        if row.expires_at > steady + row.clock:
            return row.clock
    return None


def _boot(host: str) -> str:
    """Return the id of the current boot of a machine; empty if it is not known."""
    return host.split(" ")[1] if " " in host else ""


def list_workers(connection: Connection, now: Microseconds) -> list[WorkerInfo]:
    """List the workers that have a lease, expired or not, in the order of their ids."""
    owned = select(instances.c.owner, func.count().label("number")).where(instances.c.owner.is_not(None))
    counts = {row.owner: row.number for row in fetch_all(connection, _Owned, owned.group_by(instances.c.owner))}
    rows = fetch_all(connection, StoredWorker, select(workers).order_by(workers.c.worker_id))
    return [_info(row, now, counts.get(row.worker_id, 0)) for row in rows]


def unreadable_workers(connection: Connection) -> list[str]:
    """Return the ids of workers whose rows are damaged, so that the death of their processes is not noticed early."""
    rows = fetch_all(connection, StoredWorker, select(workers).order_by(workers.c.worker_id))
    return [row.worker_id for row in rows if _process(row) is _UNKNOWN]


class _Owned(NamedTuple):
    owner: str
    number: int


def _info(row: StoredWorker, now: Microseconds, owned: int) -> WorkerInfo:
    process = _process(row)
    return WorkerInfo(
        worker_id=row.worker_id,
        host=process.host.partition(" ")[0],
        pid=process.pid,
        version=row.version,
        joined_at=readable_time(row.joined_at)[0],
        expires_at=readable_time(row.expires_at)[0],
        is_alive=type(row.expires_at) is int and row.expires_at > now and not is_dead(process),
        owned=owned,
    )


def leave(connection: Connection, lease: Lease, now: Microseconds) -> None:
    """End the worker's own lease, and free the instances that it still owns."""
    if _end(connection, lease):
        _free(connection, lease.worker_id, now, died=False)


def fence(connection: Connection, lease: Lease, expires_at: Microseconds) -> None:
    """Prolong the lease as part of a transaction, so that the transaction commits only if the lease is still held.

    It is a write and not a locked read, so that a cluster which certifies writes only (Galera) sees it.

    Raises:
      LeaseLostError: if the lease was ended. The transaction must not commit.
    """
    if not connection.execute(_fence, fence_values(lease, expires_at)).rowcount:
        check_lease(connection, lease)
        raise _lost(lease)


def fence_batch(connection: Connection, lease: Lease, expires_at: Microseconds, number: int) -> bool:
    """Prolong the lease as :func:`fence` does, for batch ``number``. Returns False if that batch was committed before.

    Raises:
      LeaseLostError: if the lease was ended.
    """
    if connection.execute(FENCE_BATCH, fence_values(lease, expires_at) | {"number": number}).rowcount:
        return True
    check_lease(connection, lease)
    return False


def beat(connection: Connection, lease: Lease, expires_at: Microseconds) -> bool:
    """Prolong the lease, unless another transaction of the worker has its row locked. Never waits for such a one.

    That transaction is behind the fence, and the lease cannot be ended meanwhile. Returns whether it was prolonged.

    Raises:
      LeaseLostError: if the lease was ended.
      CommitsLostError: if the database has lost transactions.
    """
    mine = select(workers.c.epoch).where(workers.c.worker_id == lease.worker_id, workers.c.epoch == lease.epoch)
    if connection.execute(mine.with_for_update(skip_locked=True)).first() is None:
        check_lease(connection, lease)
        return False
    fence(connection, lease, expires_at)
    return True


def check_lease(connection: Connection, lease: Lease) -> None:
    """Check that the lease is held, and that the database has all that was committed under it.

    Raises:
      LeaseLostError: if the lease was ended.
      CommitsLostError: if the database has lost transactions.
    """
    committed = lease.committed  # before the query: the heartbeat asks from a thread, beside a batch that commits
    held = select(workers.c.batch).where(workers.c.worker_id == lease.worker_id, workers.c.epoch == lease.epoch)
    batch = connection.execute(held).scalar()
    if batch is None:
        raise _lost(lease)
    if batch < committed:
        raise CommitsLostError(
            f"the database has lost {committed - batch} committed transactions of worker {lease.worker_id!r}, as "
            f"when a standby takes over that did not have them yet: its instances go back to what is stored, "
            f"activities whose outcome was lost run again, and instances whose start was lost are gone"
        )


def fence_values(lease: Lease, expires_at: Microseconds) -> dict[str, object]:
    return {"me": lease.worker_id, "my_epoch": lease.epoch, "expires": expires_at, "committed": lease.committed}


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(f"worker {lease.worker_id!r} lost its lease (epoch {lease.epoch}); it will join again")


def _end(connection: Connection, lease: Lease, expired_by: Microseconds | None = None) -> bool:
    ended = delete(workers).where(workers.c.worker_id == lease.worker_id, workers.c.epoch == lease.epoch)
    if expired_by is not None:
        ended = ended.where(workers.c.expires_at <= expired_by)
    return bool(connection.execute(ended).rowcount)


def _free(connection: Connection, worker_id: str, now: Microseconds, *, died: bool) -> None:
    """Make everything that the worker owned due, without an owner. A death counts where an attempt may have begun."""
    free_permits_of_worker(connection, worker_id, now)
    free = update(instances).where(instances.c.owner == worker_id).values(owner=None, wake_at=at_once(now))
    connection.execute(free.values(recoveries=_after_death, has_begun=None) if died else free)
    notify_workers(connection)


_after_death = instances.c.recoveries + case((or_(instances.c.has_begun, _may_have_begun), 1), else_=0)


def mark_begun(connection: Connection, instance_id: str) -> None:
    """Record that an attempt of an instance begins, so that the death of its worker counts."""
    connection.execute(_mark_begun, {"id": instance_id})


_mark_begun = update(instances).where(instances.c.instance_id == bindparam("id")).values(has_begun=True)


def _process(row: StoredWorker) -> Process:
    """Return the process of a worker; of a damaged row one that is neither seen to run nor to have ended."""
    try:
        process = Process(**json.loads(row.process))
    except (RecursionError, TypeError, ValueError):
        return _UNKNOWN
    texts = process.host, process.started, process.token
    return process if type(process.pid) is int and all(type(text) is str for text in texts) else _UNKNOWN


def _process_text(process: Process) -> str:
    return json.dumps(asdict(process))
