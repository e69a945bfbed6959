"""Interrupts, such as Ctrl-C: exceptions that a signal raises in whatever code is running."""

from __future__ import annotations

from .._exceptions import contains, is_a, origins_of, parts


def interrupt_in(error: BaseException) -> BaseException | None:
    """Return the :exc:`KeyboardInterrupt` behind an exception of user code; None without one.

    It is the exception itself, a part of a group, or what the code has turned into another exception.
    """
    seen: set[int] = set()
    remaining = [error]
    while remaining:
        for one in parts(remaining.pop()):
            if id(one) in seen:
                continue
            seen.add(id(one))
            if is_a(one, KeyboardInterrupt):
                return one
            remaining += origins_of(one)
    return None


def ends_program(error: BaseException) -> bool:
    """Return whether an exception of the runtime must end the program: Ctrl-C, or a signal handler that exits."""
    return contains(error, KeyboardInterrupt, SystemExit)
