"""The journal of one instance as a replay reads it: the next entry, and whether the journal fits the code."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from attrs import evolve

from ..._data.journal_format import Kept
from ..._storage.sql.entries import JournalEntry
from ...clock import Microseconds
from ...errors import NonDeterminismError
from ...model import EntryKind
from .code_change import PATCHED, cure
from .operation import Operation


class JournalCursor:
    """The entries that the workflow has not been told yet, and what earlier entries mean for the rest."""

    __slots__ = (
        "_attempted",
        "_failures",
        "_instance_id",
        "_left_in",
        "_patches",
        "_resumed",
        "_unasked",
        "_untold",
        "is_repeating",
        "kept",
        "now",
        "taken",
    )

    def __init__(
        self, instance_id: str, created_at: Microseconds, entries: Sequence[JournalEntry], *, has_run: bool = False
    ) -> None:
        self._instance_id = instance_id
        self.now = created_at
        """Time of the entry last told to the workflow."""
        self.taken = 0
        """Number of entries told to the workflow."""
        self._untold = deque([entry for entry in entries if entry.kind.is_delivered]) if entries else None
        self._failures: dict[str, list[JournalEntry]] | None = None
        """Failed attempts, by operation id."""
        self.kept: dict[str, JournalEntry] | None = None
        """Outcomes from before ``app.retry`` that count again when they are asked for, by operation id."""
        self._patches: dict[str, bool] | None = None
        """Changes of the code, and whether the instance goes their way."""
        self._left_in: Counter[str] | None = None
        """Numbers of entries not told yet by the prefix of their branch, once a branch has asked; "" has no branch."""
        self._unasked: set[str] | None = None
        """Changes that the code has not asked for since the replay began; None if the journal had none."""
        self._attempted: set[str] | None = None
        """Operations with failed attempts and no outcome that the code has not asked for since the replay began."""
        self._resumed = 0
        """Number of the last entry with which an operator resumed the instance."""
        self.is_repeating = has_run
        """Whether the code after the last entry has run before, since an earlier run came at least as far.

        That code ends at the next new outcome, whose teller sets this to False.
        """
        if entries and (last := entries[-1].kind) is not EntryKind.CONTINUED:
            # After a retry or a resumption the code may go another way than before.
            self.is_repeating = last is not EntryKind.RETRIED and last is not EntryKind.RESUMED
        for entry in entries:
            kind = entry.kind
            if kind.is_delivered and self.kept is None:
                pass  # nearly all entries
            elif kind is EntryKind.ATTEMPT_FAILED:
                self.add_failure(entry)
            elif kind is EntryKind.PATCHED:
                self.patch(entry.operation_id, is_patched=True)
            elif kind is EntryKind.KEPT:
                if self.kept is None:
                    self.kept = {}
                self.kept[entry.operation_id] = entry
            elif self.kept is not None:
                self.kept.pop(entry.operation_id, None)  # the code has asked for it
        if self._patches is not None:
            self._unasked = set(self._patches)
        if self._failures is not None:
            ended = {entry.operation_id for entry in entries if entry.kind is not EntryKind.ATTEMPT_FAILED}
            self._attempted = set(self._failures) - ended
            self._resumed = max((entry.seq for entry in entries if entry.kind is EntryKind.RESUMED), default=0)

    # -- what comes next -------------------------------------------------------------------------------------------

    def next_entry(self) -> JournalEntry | None:
        """Return the next entry; None once the journal is used up."""
        return self._untold[0] if self._untold else None

    @property
    def is_replaying(self) -> bool:
        """Whether the code that runs now has run before."""
        return self.is_repeating or bool(self._untold)

    def take(self, id: str, kinds: frozenset[EntryKind]) -> JournalEntry | None:
        """Take the next entry, if it is the outcome of this operation."""
        if not self._untold or (entry := self._untold[0]).operation_id != id or entry.kind not in kinds:
            return None
        self.advance(entry)
        return entry

    def asks_for(self, id: str) -> None:
        """Note that the code asks for an operation whose outcome is not the next entry."""
        if self._attempted:
            self._attempted.discard(id)

    def advance(self, entry: JournalEntry) -> None:
        """Move past the next entry, which was told to the workflow."""
        assert self._untold
        self._untold.popleft()
        if self._left_in is not None:
            self._left_in.subtract(_branches_of(entry.operation_id))
        self.taken += 1
        self.now = entry.recorded_at

    @property
    def was_cancelled(self) -> bool:
        """Whether the journal holds a cancel request that the workflow has not been told yet."""
        return EntryKind.CANCEL_REQUESTED in [entry.kind for entry in self._untold or ()]

    # -- failed attempts -------------------------------------------------------------------------------------------

    def failures_of(self, operation_id: str) -> Sequence[JournalEntry]:
        """Return the failed attempts of an operation, in order."""
        return () if self._failures is None else self._failures.get(operation_id, ())

    def add_failure(self, entry: JournalEntry) -> None:
        """Count a failed attempt."""
        if self._failures is None:
            self._failures = {}
        self._failures.setdefault(entry.operation_id, []).append(entry)

    def forget_failures(self, operation_id: str, until: int) -> None:
        """Cease to count the failed attempts of an operation up to that entry."""
        if self._failures is not None and operation_id in self._failures:
            counted = [entry for entry in self._failures[operation_id] if entry.seq > until]
            self._failures[operation_id] = counted

    # -- outcomes from before a retry ------------------------------------------------------------------------------

    def take_kept(self, operation_id: str, kinds: frozenset[EntryKind]) -> JournalEntry | None:
        """Take the outcome that an operation had before ``app.retry``, if it can have that again."""
        entry = None if self.kept is None else self.kept.pop(operation_id, None)
        if entry is None or not isinstance(kept := entry.payload, Kept) or kept.kind not in kinds:
            return None
        return evolve(entry, kind=kept.kind, payload=kept.payload)

    # -- changes of the code ---------------------------------------------------------------------------------------

    def is_patched(self, id: str, prefix: str) -> bool | None:
        """Whether the branch with that prefix goes the way of a change; None: it does, if that is recorded.

        A branch in the middle of its journal has passed here before, and has gone the old way.
        """
        if self._unasked is not None:
            self._unasked.discard(id)
        if id not in (self._patches or ()) and self._has_passed(prefix):
            self.patch(id, is_patched=False)
        return (self._patches or {}).get(id)

    def patch(self, id: str, *, is_patched: bool) -> None:
        """Note whether the instance goes the way of a change of the code."""
        if self._patches is None:
            self._patches = {}
        self._patches[id] = is_patched

    def _has_passed(self, prefix: str) -> bool:
        """Return whether the journal has later entries of the branch, as far as ids can tell."""
        if not prefix:
            return self.next_entry() is not None or bool(self._attempted)
        if self._left_in is None:
            ids = (entry.operation_id for entry in self._untold or ())
            self._left_in = Counter(branch for id in ids for branch in _branches_of(id))
        if self._left_in[prefix] > 0 or self._left_in[""] > 0:  # ids given by the user have no prefix
            return True
        return any(id.startswith(prefix) or "/" not in id for id in self._attempted or ())

    # -- journals that do not fit the code -------------------------------------------------------------------------

    def unasked_change(self) -> NonDeterminismError | None:
        """Return the error if the code has not asked for what a complete replay has to ask for.

        These are the changes whose way the instance goes, and the activities that were attempted since the instance was
        resumed last: an operator who resumes it may give up an attempt.
        """
        if self._unasked:
            way = min(self._unasked)
            return self.contradiction(way, "is a change whose way it goes", "does not ask for that change")
        if self._attempted and (begun := self._begun()) is not None:
            hint = f"it looks as if an operation was added before {begun!r}, or {begun!r} was removed: {PATCHED}"
            return self.contradiction(begun, "was attempted and has no outcome", "does not ask for it", hint)
        return None

    def _begun(self) -> str | None:
        """Return an operation that was attempted since the last resumption, and that the code has not asked for."""
        ids = (id for id in self._attempted or () if self.failures_of(id)[-1].seq > self._resumed)
        return min(ids, default=None)

    def mismatch(self, in_flight: Sequence[Operation]) -> NonDeterminismError:
        """Return the error of a journal whose next entry is not what the code asks for. The message shows both."""
        entry = self.next_entry()
        assert entry is not None
        asked = [operation for operation in in_flight if operation.task]
        asks = [f"{operation.what} {operation.id!r}" for operation in asked]
        code = f"asks for {', '.join(asks)}" if asks else "has ended or asks for nothing"
        hint = cure(entry, {later.operation_id for later in self._untold or () if later is not entry}, asked)
        return NonDeterminismError(
            f"instance {self._instance_id!r}: the journal goes on with {entry.kind} of {entry.operation_id!r} "
            f"(entry {entry.seq}), but the workflow code {code}; {hint}; deploy code that fits the journal, "
            f"then resume it"
        )

    def contradiction(self, operation_id: str, journal_says: str, code: str, hint: str = "") -> NonDeterminismError:
        """Return the error of a journal that says something of an operation which the code cannot do."""
        return NonDeterminismError(
            f"instance {self._instance_id!r}: the journal says that {operation_id!r} {journal_says}, but the workflow "
            f"code {code}; {f'{hint}; ' if hint else ''}deploy code that fits the journal, then resume it"
        )

    def other_channel(self, operation_id: str, recorded: str, asked: str) -> NonDeterminismError:
        """Return the error of an operation that is about another channel, or type of events, in the journal."""
        hint = f"it looks as if an operation of the same kind was added or removed before it: {PATCHED}"
        return self.contradiction(operation_id, f"is about {recorded!r}", f"asks for {asked!r}", hint)


def _branches_of(operation_id: str) -> list[str]:
    """Return the prefix of each branch that an operation may be in, as far as its id can tell; "" for no branch."""
    parts = operation_id.split("/")[:-1]
    return ["/".join(parts[:count]) + "/" for count in range(1, len(parts) + 1)] or [""]
