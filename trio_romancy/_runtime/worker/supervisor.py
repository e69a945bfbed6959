"""The nursery of all actors of a worker: spawns them, acts on their exits, drains them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import itemgetter
from typing import Any
from weakref import WeakValueDictionary

import trio
from attrs import evolve, frozen

from ..._data.end_request import EndRequest
from ..._data.large import LARGE, decoded
from ..._definitions.registry import registry
from ..._definitions.values import Workflow
from ..._observe.dispatcher import HookDispatcher
from ..._settings import Settings
from ..._storage.database import Database
from ..._storage.journal.committed import Committed, Started
from ..._storage.journal.journal import Journal
from ..._storage.outages import retry_unless_refused
from ..._storage.sql.claims import Claim, ClaimedInstance, load_again
from ..._storage.sql.entries import BEGINNING, JournalEntry, read_entries
from ..._storage.sql.instances import get_ending
from ..._storage.sql.termination import Termination
from ..._storage.sql.waits import MatchResult
from ..._storage.sql.workers import Lease
from ..._tasks.alarms import Alarms
from ..._tasks.interrupts import ends_program
from ..._tasks.pool import PooledTask
from ..._tasks.scheduler import current_scheduler
from ...clock import Clock, Microseconds
from ...errors import InvalidDataError, LeaseLostError, RomancyError
from ...model import Status
from ..actor.actor import Actor
from ..run.environment import AwaitingRun, Environment
from ..run.exits import Abandoned, Ended, Exit, LeftToOthers, Recurred, Released
from ..run.limiter import Limiter
from ..run.local_result import LocalResult
from ..run.run import InstanceRun
from ..run.threads import Threads
from .ends import Ends
from .long_attempts import LongAttempts
from .message_fetcher import MessageFetcher
from .outside_waits import OutsideWaits
from .restarts import Crashes, Restarts
from .suspects import Suspects, may_only_have_waited, too_many_deaths
from .terminations import Terminations

_MOST_FREE_TASKS = 256
"""The most tasks, of some 3 KB each, that are kept for the next instance."""

_Assignment = tuple[ClaimedInstance, list[Any] | None, Crashes | None]
"""An instance to run, its arguments if it is new, and the crashes of its last actors if there were any."""


@frozen
class SupervisorStatistics:
    """Numbers about the actors of a worker."""

    resident: int
    """Instances in memory."""
    idle: int
    """Instances in memory that only wait."""
    restarts: int
    """Crashed actors that were restarted."""


class Supervisor:
    """Runs the actors of one worker under one lease. Nothing that an instance does can end the supervisor.

    Args:
      local_results: results to set when instances end, by instance id.
      max_recoveries: most deaths of a worker that an instance may outlive and still run.
      on_wake: called with the time at which an instance becomes due.
      on_deadline: called when an instance with a deadline was stored.
      on_room: called when an instance has left memory, or only waits.
      on_effects: called when messages, or events for the broker, were stored without the journal.
      on_committed: called with each committed batch.
      on_interrupt: called with Ctrl-C if it has struck in a task of an instance.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        database: Database,
        lease: Lease,
        threads: Threads,
        local_results: WeakValueDictionary[str, LocalResult],
        max_recoveries: int,
        on_wake: Callable[[Microseconds], None],
        on_deadline: Callable[[], None],
        on_room: Callable[[], None],
        on_effects: Callable[[], None],
        on_committed: Callable[[Committed], None],
        on_interrupt: Callable[[BaseException], None],
        dispatcher: HookDispatcher | None,
    ) -> None:
        self.clock = clock
        self.database = database
        self.journal = journal = Journal(database, lease, clock, settings.lease_time, self)
        self.idle = 0
        """Number of actors that only wait."""
        self.arriving = 0
        """Number of places in memory that starts and a claim under way may take."""
        self.is_draining = False
        self._awaiting: dict[AwaitingRun, None] = {}
        """Runs with an activity that awaits other instances, in the order in which they began to."""
        self._max_recoveries = max_recoveries
        self._on_wake = on_wake
        self._on_deadline = on_deadline
        self._on_room = on_room
        self._on_effects = on_effects
        self._on_committed = on_committed
        self._on_interrupt = on_interrupt
        self._alarms = Alarms(clock)
        self._outside_waits = OutsideWaits(self._runs)
        self._long_attempts = LongAttempts(clock, self._runs)
        self._message_fetcher = MessageFetcher(database, clock)
        self._suspects = Suspects(self.something_is_due)
        self._env = Environment(
            settings,
            clock,
            database,
            journal,
            threads,
            self._alarms,
            current_scheduler(),
            self._message_fetcher,
            self,
            Limiter(journal, clock),
            dispatcher,
        )
        self._actors: dict[str, Actor | None] = {}
        """Actors by instance id; None while the journal is being loaded."""
        self._stale: set[str] = set()
        """Instances for which something new has come while their actors were being made."""
        self._cancels: dict[str, str] = {}
        """Reasons of cancel requests that came after the claim, by instance id."""
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope(shield=True)
        """Scope of all actors. A cancellation from outside never reaches an actor before its run is gone."""
        self.ready = trio.Event()
        """Event set once instances can be spawned."""
        self.ended = trio.Event()
        """Event set once all tasks of all actors have ended, after :meth:`end`."""
        self._free_tasks: list[PooledTask[_Assignment]] = []
        self._emptied = trio.Event()
        self._ends = Ends(lease.worker_id, clock, local_results, dispatcher)
        self._restarts = Restarts(journal, clock)
        self._terminations = Terminations(journal, clock, self)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Run the actors, until :meth:`end` was called and the tasks of all have ended. Cancellation has no effect."""
        with self._env.scheduler.in_use(), self._scope:
            async with trio.open_nursery() as self._nursery:
                self.ready.set()
                await trio.sleep_forever()
        self.ended.set()

    def end(self) -> None:
        """Abandon all actors, and make :meth:`run` return. User code that is shielded may delay that."""
        self.abandon_all()
        self._scope.cancel()

    async def run_alarms(self) -> None:
        """Wake actors that wait, each at its time."""
        await self._alarms.run()

    async def name_outside_waits(self) -> None:
        """Name workflows that wait for something that is not in their journals."""
        await self._outside_waits.run()

    async def show_long_attempts(self) -> None:
        """Show in the rows of instances which attempts have been running for long."""
        await self._long_attempts.run()

    async def fetch_messages(self) -> None:
        """Find the messages that actors wait for."""
        await self._message_fetcher.run()

    def has_room(self, most_running: int, most_resident: int) -> bool:
        """Whether one more instance may be taken into memory, without a closer look at what those in it do."""
        return self.resident + self.arriving < most_resident and self.resident - self.idle < most_running

    @property
    def running(self) -> int:
        """Number of instances that do more than wait: for messages or time, or for instances in activities."""
        return self.resident - self.idle - len(self.awaiting())

    @property
    def has_awaiting(self) -> bool:
        """Whether any activity awaits another instance, perhaps beside activities that do something else."""
        return bool(self._awaiting)

    def awaiting(self) -> list[str]:
        """Return the ids of the instances all of whose running activities await other instances."""
        return [run.instance_id for run in self._awaiting if run.only_awaits_instances] if self._awaiting else []

    @property
    def resident(self) -> int:
        """Number of instances in memory."""
        return len(self._actors)

    def instance_ids(self) -> list[str]:
        """Return the ids of the instances in memory."""
        return sorted(self._actors)

    def is_resident(self, instance_id: str) -> bool:
        """Whether the instance is in memory."""
        return instance_id in self._actors

    @property
    def has_suspect(self) -> bool:
        """Whether a suspect is in memory: an instance that outlived its worker more than once."""
        return self._suspects.is_any

    def statistics(self) -> SupervisorStatistics:
        """Return numbers about the actors."""
        return SupervisorStatistics(self.resident, self.idle, self._restarts.count)

    def spawn(self, claimed: ClaimedInstance, new: list[Any] | None = None) -> None:
        """Run an instance that this worker owns. If it is in memory, tell its actor what the claim says.

        Args:
          new: the workflow's arguments if the instance is new, so that its journal is empty.
        """
        claim = claimed.claim
        if claim.instance_id in self._actors:
            actor = self._actors[claim.instance_id]
            if (request := claim.cancel_requested) is not None:
                self._cancels[claim.instance_id] = request  # also for the actor that follows a crash
                if actor is not None and EndRequest.from_text(request).terminates:
                    self._terminations.terminate(claim, actor.instance_run)
                    return
                if actor is not None:
                    actor.request_cancel(request)
            self._env.limiter.called(claim.instance_id)
            if claim.was_mine and claimed.waits:
                self.offer(claimed.waits)
            else:
                self.refresh({claim.instance_id})
            return
        if claim.was_mine:
            claimed = ClaimedInstance(claim)  # what was loaded with it was for its last actor, and may be out of date
        assert self._nursery is not None
        self._actors[claim.instance_id] = None
        if claim.recoveries > 1:
            self._suspects.add(claim.instance_id)
            self._nursery.start_soon(self._suspects.watch, claim.instance_id)
        if self._free_tasks:
            self._free_tasks.pop().assign((claimed, new, None), claim.instance_id)
        else:
            self._nursery.start_soon(self._run_assignments, (claimed, new, None), name=claim.instance_id)

    def spawn_new(self, started: Started) -> None:
        """Run a new instance of this worker."""
        row = started.row
        claim = Claim(
            row["instance_id"],
            row["workflow"],
            row["status"],
            row["input"],
            row["created_at"],
            0,
            None,
            started.started_after,
            trace=row["trace"],
        )
        self.spawn(ClaimedInstance(claim, ()), new=started.arguments)

    def refresh(self, instance_ids: Iterable[str]) -> None:
        """Have instances of this worker fetch what is new.

        An instance whose run is gone is about to be released or restarted. It will be due at once then.
        """
        for instance_id in instance_ids:
            if (actor := self._receptive(instance_id)) is not None:
                with _crashing(actor):
                    actor.refresh()

    def offer(self, results: Sequence[MatchResult]) -> None:
        """Offer messages that were found for waits of this worker's instances."""
        for result in results:
            if (actor := self._receptive(result.wait.instance_id)) is not None:
                with _crashing(actor):
                    actor.offer(result)

    def _receptive(self, instance_id: str) -> Actor | None:
        """Return the actor of an instance. Without one that can be told, make the next one look."""
        actor = self._actors.get(instance_id)
        if actor is not None and not actor.instance_run.is_gone:
            return actor
        if actor is None and instance_id in self._actors:
            self._stale.add(instance_id)
        elif actor is not None and not actor.is_released:
            actor.wake_requested = True  # for its release; a restart loads the journal again
        else:
            with suppress(LeaseLostError):  # after which the instance is claimed again
                self.journal.append_wake(instance_id)
        return None

    def abandon_all(self) -> None:
        """Stop all actors at once, recording nothing more: the lease is lost."""
        for run in self._runs():
            run.abandon()

    async def drain(self) -> None:
        """Let running activities finish, release every instance, and return when none is left."""
        self.is_draining = True
        for actor in list(self._actors.values()):
            if actor is not None:
                actor.drain()
        while self._actors:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def passivate_idle(self, count: int) -> None:
        """Release up to that many instances that only wait, the longest waiting first."""
        waiting = [
            (since, actor)
            for actor in self._actors.values()
            if actor is not None and (since := actor.instance_run.idle_since) is not None
        ]
        for _, actor in sorted(waiting, key=itemgetter(0))[:count]:
            actor.passivate()

    def crash_all(self, error: Exception) -> None:
        """Make every actor crash."""
        for run in self._runs():
            run.crash(error)

    def _runs(self) -> list[InstanceRun]:
        return [actor.instance_run for actor in self._actors.values() if actor is not None]

    # -- calls of the journal --------------------------------------------------------------------------------------

    def committed(self, committed: Committed) -> None:
        """Run the new instances of a batch, and offer its messages to the instances that wait for them."""
        for started in committed.started:
            if started.is_owned:
                self.spawn_new(started)
        if committed.matches:
            self.offer(committed.matches)
        self._on_committed(committed)

    def refused(self, instance_id: str, error: Exception) -> None:
        """Make the actor of an instance crash: the database refuses what it recorded."""
        if actor := self._actors.get(instance_id):
            actor.instance_run.write_refused(error)

    def lost(self) -> None:
        """Abandon every actor: the lease is lost."""
        self.abandon_all()

    # -- one actor -------------------------------------------------------------------------------------------------

    async def _run_assignments(self, assignment: _Assignment) -> None:
        """Run an instance, and then others as they are assigned. What they raise never reaches the nursery."""
        task = PooledTask(self._free_tasks)
        try:
            await self._supervise(task, *assignment)
            del assignment  # it may be large, and the wait for the next one long
            while not task.is_tainted and len(self._free_tasks) < _MOST_FREE_TASKS:
                await self._supervise(task, *await task.next())
        except trio.Cancelled:
            pass  # the scope of all actors was cancelled
        except BaseException as error:
            if task.is_torn:
                raise
            if ends_program(error):
                self._on_interrupt(error)
        await task.aclose()

    async def _supervise(
        self,
        task: PooledTask[_Assignment],
        claimed: ClaimedInstance,
        new: list[Any] | None,
        crashes: Crashes | None,
    ) -> None:
        """Run an instance until it leaves memory. Restarts its actor through replay after a crash.

        Raises:
          BaseException: if it ends the program, or the coroutine is being closed. What else an actor raises is a crash
            of this actor only.
        """
        claim, rows, stored = claimed.claim, claimed.rows, claimed.waits
        entries = () if new is not None else None if claimed.first is None else [claimed.first]
        del claimed
        goes_on = False
        actor: Actor | None = None
        try:
            while True:
                try:
                    if crashes is not None and (parked := await self._restarts.after(crashes, claim)) is not None:
                        self._ends.ended(claim, parked)
                        return
                    problem = claim.problem
                    if entries is None:
                        try:
                            if rows is None:
                                loaded = await self._load(claim)
                                if loaded is None:
                                    return
                                claim, entries = loaded
                            else:
                                entries = read_entries(rows)
                        except InvalidDataError as error:
                            entries, problem = (), error
                        rows = None
                    if (request := self._cancels.get(claim.instance_id)) is not None:
                        claim = evolve(claim, cancel_requested=request)
                    if claim.cancel_requested is not None and EndRequest.from_text(claim.cancel_requested).terminates:
                        await self._terminations.carry_out(claim)
                        return
                    arguments = await _large_arguments(claim) if new is None else new
                    actor = self._new_actor(task, claim, entries, arguments, stored, problem, is_new=new is not None)
                    events = actor.instance_run.events
                    if events is None:
                        self._act_on(await actor.run(), claim)
                    else:
                        with events.over(len(entries), is_new=new is not None):
                            self._act_on(await actor.run(), claim)
                    return
                except LeaseLostError:
                    return
                except BaseException as error:
                    if task.is_torn:
                        goes_on = True  # on another worker: here nothing can be told of it any more
                        raise
                    if self._scope.cancel_called or ends_program(error):
                        raise
                    crash = error if isinstance(error, Exception) else _as_exception(error)
                entries, rows, new, stored = None, None, None, ()
                crashes = crashes or Crashes()
                crashes.add(crash, self.clock.now())
                self._actors[claim.instance_id] = None
                # Activities may have begun since the claim, and the restarted actor did not have to wait for a worker.
                has_progress = actor is not None and not actor.instance_run.writer.on_probation
                deaths = 0 if has_progress else claim.recoveries
                claim = evolve(claim, status=Status.RUNNING, due_at=None, recoveries=deaths)
                if task.is_tainted:
                    goes_on = True
                    assert self._nursery is not None
                    again = ClaimedInstance(claim), None, crashes
                    self._nursery.start_soon(self._run_assignments, again, name=claim.instance_id)
                    return
        finally:
            was_left = actor is not None and self._terminations.was_left(actor.instance_run)
            if not goes_on and not was_left:
                self._forget(claim.instance_id)

    async def _load(self, claim: Claim) -> tuple[Claim, list[JournalEntry]] | None:
        """Load the journal of an instance, page by page.

        Returns None if the worker no longer owns it, as after a crash of its last actor that had ended it.

        Raises:
          InvalidDataError: if an entry cannot be read.
        """
        self._cancels.pop(claim.instance_id, None)  # the row has the request, unless that is out of date
        read, me = self.database.read, self.journal.lease.worker_id
        entries: list[JournalEntry] = []
        after = BEGINNING
        while True:  # each page in a transaction of its own: nothing is added to the journal until the actor runs
            loaded = await retry_unless_refused(self.database, read, load_again, me, claim, after)
            if loaded is None:
                ending = await retry_unless_refused(self.database, read, get_ending, claim.instance_id)
                if ending is not None and ending[0].is_final:
                    self._ends.ended(claim, Ended(*ending))
                return None
            claim, page = loaded
            entries += await decoded(page.size, partial(read_entries, page.rows))
            if page.is_last:
                return claim, entries
            after = page.end

    def _new_actor(
        self,
        task: PooledTask[_Assignment],
        claim: Claim,
        entries: Sequence[JournalEntry],
        arguments: list[Any] | None,
        stored: Sequence[MatchResult],
        problem: InvalidDataError | None,
        *,
        is_new: bool,
    ) -> Actor:
        """Make the actor of an instance, and tell it what has happened meanwhile.

        Args:
          problem: why the instance cannot be read. It is parked then.
        """
        if problem is not None:
            claim = evolve(claim, cancel_requested=None)  # also if it should be rolled back: nothing tells what to undo
        rejection: Exception | None = problem
        deaths = too_many_deaths(claim, self._max_recoveries)
        is_in_doubt = deaths is not None and may_only_have_waited(claim)
        if not is_in_doubt:
            rejection = rejection or deaths
        workflow = _workflow(claim)
        actor = Actor(self._env, task, claim, workflow, entries, arguments, stored, is_new=is_new, rejection=rejection)
        if is_in_doubt:
            actor.instance_run.suspicion = deaths
        if claim.instance_id in self._stale:
            self._stale.discard(claim.instance_id)
            actor.instance_run.intake.is_stale = True
        self._actors[claim.instance_id] = actor
        self._outside_waits.notify()
        if self.is_draining:
            actor.drain()
        return actor

    # -- calls of runs ---------------------------------------------------------------------------------------------

    def start_soon(self, fn: Callable[[], Awaitable[object]], /) -> None:
        """Run a task in the nursery."""
        assert self._nursery is not None
        self._nursery.start_soon(fn)

    def interrupted(self, error: BaseException, /) -> None:
        """End the block of the app: Ctrl-C has struck in a task of a run."""
        self._on_interrupt(error)

    def idle_changed(self, by: int, /) -> None:
        """Count one actor more (1), or one fewer (-1), that only waits."""
        self.idle += by
        if by > 0:
            self._on_room()

    def awaiting_changed(self, run: AwaitingRun, /) -> None:
        """Note that one activity more of a run awaits other instances, or one fewer."""
        if run.awaiting:
            self._awaiting[run] = None
            self._on_room()
        else:
            del self._awaiting[run]

    def attempt_changed(self) -> None:
        self._long_attempts.notify()

    def something_is_due(self, *, has_deadline: bool = False) -> None:
        """Have the worker claim what a run has made due."""
        self._on_wake(self.clock.now())
        if has_deadline:
            self._on_deadline()

    def effects_stored(self) -> None:
        """Deliver messages, and events for the broker, that were stored without the journal."""
        self._on_effects()

    def probation_cleared(self, instance_id: str, /) -> None:
        """Let the next suspect run: the instance has made progress."""
        self._suspects.clear(instance_id)

    def terminated(self, claim: Claim, termination: Termination | None, run: InstanceRun | None) -> None:
        """Act on a termination: tell callers of the end, or have the rollback claimed.

        Args:
          termination: None if the instance had ended before.
          run: the run that was abandoned, which may take long to end; None if there was none.
        """
        if run is not None:
            actor = self._actors.get(claim.instance_id)
            if actor is not None and actor.instance_run is run:
                self._terminations.leave(run)
                self._forget(claim.instance_id)
        if termination is None:
            return
        if termination.status.is_final:
            self._ends.ended(claim, Ended(termination.status, None, termination.error))
        self.something_is_due()  # the rollback, or children and the parent

    # -- exits -----------------------------------------------------------------------------------------------------

    def _act_on(self, exit: Exit, claim: Claim) -> None:
        """Do what the exit of an actor asks for."""
        match exit:
            case Ended():
                self._ends.ended(claim, exit)
            case Recurred():
                if exit.is_mine:
                    self.spawn(ClaimedInstance(exit.next, first=exit.first))
                else:
                    self.something_is_due()
                self._ends.ended(claim, exit.ended)
            case Released():
                self.something_is_due()  # the instance may have been woken before it was released
            case LeftToOthers():
                self._ends.left_to_others(claim, exit)
            case Abandoned():
                pass

    def _forget(self, instance_id: str) -> None:
        """Forget an instance that has left memory."""
        del self._actors[instance_id]
        self._ends.left_memory(instance_id)
        self._env.limiter.left_memory(instance_id)
        self._cancels.pop(instance_id, None)
        self._stale.discard(instance_id)
        self._suspects.clear(instance_id)
        self._on_room()
        if not self._actors:
            self._emptied.set()


@contextmanager
def _crashing(actor: Actor) -> Iterator[None]:
    """Make an error in the block a crash of one actor, and not of the journal that tells it something."""
    try:
        yield
    except Exception as error:
        actor.instance_run.crash(error)


def _as_exception(error: BaseException) -> Exception:
    """Return an exception for a crash, made of one that only the interpreter or trio should raise."""
    crash = RuntimeError(f"its actor raised {type(error).__name__} although nothing had stopped it")
    crash.__cause__ = error
    return crash


async def _large_arguments(claim: Claim) -> list[Any] | None:
    """Decode the input of an instance if it is large; None: its actor decodes it."""
    text = claim.input
    if not isinstance(text, str) or len(text) < LARGE:
        return None
    try:
        return await decoded(len(text), partial(_workflow(claim).input.decode, text))
    except RomancyError:
        return None  # the actor decodes it again, and parks the instance


def _workflow(claim: Claim) -> Workflow[..., Any]:
    workflow = registry.find_workflow(claim.workflow)
    if workflow is None:
        raise RomancyError(
            f"instance {claim.instance_id!r}: its workflow {claim.workflow!r} is not defined in this process any more; "
            f"import its module before the app is opened, and keep it registered"
        )
    return workflow
