"""Operation ids, branches and random numbers: what is the same on each replay because it is counted, not drawn."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from random import Random
from typing import final

import trio
from attrs import define, field

from ..._data.ids import MAX_ID, checked_id, short_id
from ...errors import OperationIdError

_WITH_OPTIONS = frozenset({"activity", "child"})
"""Operations whose explicit id is an option of the definition. All others take it as an argument."""


@define(eq=False)
class Branch:
    """The automatic ids of one task."""

    prefix: str
    task: trio.lowlevel.Task | None
    seed: str
    counters: dict[str, int] = field(factory=dict)
    _random: Random | None = None

    @property
    def random(self) -> Random:
        """Random generator of the branch."""
        if self._random is None:
            self._random = Random(self.seed)
        return self._random


current_branch: ContextVar[Branch | None] = ContextVar("trio_romancy_current_branch", default=None)
"""The branch opened with ``ctx.branch``; None: the trunk, on which every workflow function begins."""


class OperationIds:
    """The operation ids of one instance."""

    __slots__ = ("_instance_id", "_trunk", "_used")

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._used: set[str] = set()
        self._trunk: Branch

    def begin(self, main: trio.lowlevel.Task) -> None:
        """Count from the start. The workflow function begins in that task, which is the current one."""
        self._trunk = Branch("", main, self._instance_id)
        if current_branch.get() is not None:  # the app was opened inside a branch of some other instance
            current_branch.set(None)

    @property
    def prefix(self) -> str:
        """Prefix of the ids in the branch that the current task is in; empty on the trunk."""
        return (current_branch.get() or self._trunk).prefix

    def new_id(self, task: trio.lowlevel.Task, name: str, explicit: str | None, what: str) -> str:
        """Return the id of the next operation: the given one, or ``name:n`` counted in its branch.

        Args:
          what: name of what the code asks for, as in :attr:`.Operation.what`.

        Raises:
          OperationIdError: if it has neither, or the id has been used.
        """
        branch = current_branch.get() or self._trunk
        if explicit is not None:
            id = explicit
            try:
                checked_id(id, "an operation id")
            except ValueError as error:
                raise OperationIdError(f"instance {self._instance_id!r}: {error}") from None
        elif branch.task is task:
            number = branch.counters.get(name, 0) + 1
            branch.counters[name] = number
            id = f"{branch.prefix}{name}:{number}"
            if len(id) > MAX_ID:
                id = short_id(id)
        else:
            how = ".options(id=...)" if what in _WITH_OPTIONS else "id=..."
            raise self._in_child_task(f"{name!r} is called", f"name the call with {how}")
        if id in self._used:
            raise OperationIdError(
                f"instance {self._instance_id!r}: the operation id {id!r} is used a second time; every operation of "
                f"an instance needs its own: put what differs into the id, such as the item of a loop"
            )
        self._used.add(id)
        return id

    def checked_change_id(self, change_id: str) -> str:
        """Return the id of a change of the code (``ctx.patched``) in the current branch.

        Raises:
          OperationIdError: if the id is empty or too long.
        """
        id = f"{self.prefix}{change_id}"
        try:
            checked_id(change_id, "a change id")
            checked_id(id, "a change id, with its branch,")
        except ValueError as error:
            raise OperationIdError(f"instance {self._instance_id!r}: {error}") from None
        return id

    def random(self) -> Random:
        """Return the random generator of the branch that the current task is in."""
        branch = current_branch.get() or self._trunk
        if branch.task is not trio.lowlevel.current_task():
            raise self._in_child_task("ctx.random or ctx.uuid4 is used", "draw in the parent task")
        return branch.random

    def new_map(self, task: trio.lowlevel.Task, explicit: str | None) -> str:
        """Return the id of the next map: the given one, or ``map:n``, in the current branch.

        Raises:
          OperationIdError: if it has neither, or the id has been used.
        """
        if explicit is not None:
            try:
                explicit = self.prefix + checked_id(explicit, "the id of a map")
            except ValueError as error:
                raise OperationIdError(f"instance {self._instance_id!r}: {error}") from None
        return self.new_id(task, "map", explicit, "map")

    def branch(self, name: str) -> AbstractContextManager[None]:
        """Prefix the ids of the current task's operations."""
        if not name:
            raise OperationIdError(f"instance {self._instance_id!r}: a branch needs a name, as in ctx.branch('eu')")
        return _OpenBranch(self, f"{self.prefix}{name}/", name)

    def item(self, map_id: str, index: int) -> AbstractContextManager[None]:
        """Prefix the ids of the current task's operations, which are for that item of a map."""
        name = f"{map_id}/{index}"
        return _OpenBranch(self, f"{name}/", name)

    def open(self, prefix: str, name: str) -> Token[Branch | None]:
        """Begin a branch of the current task. Returns what ends it."""
        if prefix in self._used:
            raise OperationIdError(
                f"instance {self._instance_id!r}: the branch {name!r} has been opened before; each branch needs its "
                f"own name: put what differs into it, such as the item of a loop"
            )
        self._used.add(prefix)
        return current_branch.set(Branch(prefix, trio.lowlevel.current_task(), f"{self._instance_id}/{prefix}"))

    def _in_child_task(self, what: str, or_else: str) -> OperationIdError:
        return OperationIdError(
            f"instance {self._instance_id!r}: {what} in a child task, where the count would depend on which sibling "
            f"comes first; put the task's code inside `with ctx.branch('name'):`, or {or_else}"
        )


@final
class _OpenBranch(AbstractContextManager[None]):
    """The block of a branch.

    No generator: :mod:`contextlib` assigns to the exceptions that leave its block, which frozen ones refuse.
    """

    __slots__ = ("_ids", "_name", "_prefix", "_token")

    def __init__(self, ids: OperationIds, prefix: str, name: str) -> None:
        self._ids = ids
        self._prefix = prefix
        self._name = name

    def __enter__(self) -> None:
        self._token = self._ids.open(self._prefix, self._name)

    def __exit__(self, *raised: object) -> None:
        current_branch.reset(self._token)
