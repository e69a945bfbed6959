"""Counts the steps that Python takes: a cost that is the same on every machine, and under any load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from attrs import define


@define
class Steps:
    """Steps counted so far."""

    count: int = 0


@contextmanager
def counted() -> Iterator[Steps]:
    """Count the bytecode instructions that this thread runs inside the block, except in frames that run already."""
    steps = Steps()

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        if what == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif what == "opcode":
            steps.count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)
