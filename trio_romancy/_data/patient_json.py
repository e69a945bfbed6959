"""Reading of large JSON text in a thread, without holding up the others.

The decoder of the standard library reads a text in one call of C, and no other thread runs meanwhile: half a second for
four megabytes of empty arrays. Its scanner in Python is slower, and lets others run.
"""

from __future__ import annotations

import json
import json.scanner
from collections.abc import Callable
from typing import Any

import trio


class PatientDecoder(json.JSONDecoder):
    """A :class:`json.JSONDecoder` that lets other threads run."""

    def __init__(
        self,
        *,
        parse_constant: Callable[[str], Any] | None = None,
        object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    ) -> None:
        super().__init__(parse_constant=parse_constant, object_pairs_hook=object_pairs_hook)
        make_scanner: Any = json.scanner.py_make_scanner  # type: ignore[attr-defined]
        self.scan_once = make_scanner(self)


_fast = json.JSONDecoder().decode
_patient = PatientDecoder().decode


def loads(text: str) -> Any:
    """Return the value of JSON text. In the trio thread it is read fast, in another one without holding that up."""
    return _fast(text) if trio.lowlevel.in_trio_task() else _patient(text)
