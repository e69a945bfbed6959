"""A journal as a timeline: one line for each entry, if it fits.

The kind of an entry is shown by its stored name, so that an unknown kind has a line, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from ..._data.journal_format import ActivityCompleted, Failure, from_data
from ..._data.log_fields import visible
from ...errors import InvalidDataError
from ...model import Entry
from .screen import Screen
from .wording import Styled, lasting, short_json

_TIME, _KIND = 9, 22
"""Widths of the first columns."""
_LEAST_PAYLOAD = 16
"""Columns that a payload needs in its line. With fewer it is written below."""
_LONGEST_PAYLOAD = 200
"""Most characters of a payload in a file."""


class Timeline:
    """Writes entries of one instance.

    Args:
      begun: the start of the instance. Times are relative to it.
      in_full: whether to write whole payloads.
    """

    def __init__(self, screen: Screen, begun: datetime, *, in_full: bool) -> None:
        self._screen = screen
        self._begun = begun
        self._in_full = in_full

    def add(self, entries: Iterable[Entry]) -> None:
        """Write these entries after those written before."""
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        screen = self._screen
        time = f"+{lasting((entry.recorded_at - self._begun).total_seconds())}".rjust(_TIME)
        mark, style = self._mark(entry)
        what = visible(entry.operation_id)
        payload = visible(_summary(entry))
        begin: list[Styled] = [(time, "dim"), f" {mark} ", (f"{entry.kind:<{_KIND}} ", style), what]
        used = sum(cell_len(part if isinstance(part, str) else part[0]) for part in begin)
        room = min(screen.width - used - 2, _LONGEST_PAYLOAD)
        if used > screen.width:
            screen.line((time, "dim"), f" {mark} ", (entry.kind, style))
            screen.line(what, indent=2, hang=0)
        elif self._in_full or not payload or room < min(_LEAST_PAYLOAD, cell_len(payload)):
            screen.line(*begin)
        else:
            screen.line(*begin, ("  " + self._shortened(payload, room), "dim"))
            return
        if payload and self._in_full:
            screen.line((payload, "dim"), indent=4)
        elif payload:
            screen.line((self._shortened(payload, min(screen.width - 4, _LONGEST_PAYLOAD)), "dim"), indent=4)

    def _mark(self, entry: Entry) -> tuple[str, str]:
        """Return a sign that is clear without colours, and a colour."""
        undoes = entry.kind.startswith("compensation") or entry.operation_id.endswith("/compensation")
        fails = entry.kind.endswith("_failed") or entry.kind.endswith("_timed_out")
        if undoes:
            return self._screen.symbols("↩", "<"), "bold red" if fails else "yellow"
        if fails:
            return self._screen.symbols("✗", "x"), "red"
        if entry.kind.endswith("_completed"):
            return self._screen.symbols("✓", "+"), "green"
        return self._screen.symbols("·", "."), ""

    def _shortened(self, text: str, room: int) -> str:
        if cell_len(text) <= room:
            return text
        dots = self._screen.symbols("…", "...")
        return set_cell_size(text, room - cell_len(dots)) + dots


def _summary(entry: Entry) -> str:
    """Return the payload in short: the error of a failure, the result of a success."""
    try:
        payload = from_data(entry.kind, entry.payload)
    except InvalidDataError:  # what a broken journal holds must still be seen
        return short_json(entry.payload)
    if isinstance(payload, Failure):
        times = f"attempt {payload.attempts}: " if entry.operation_id else ""
        return " ".join(f"{times}{payload.error_type}: {payload.message}".split())
    if isinstance(payload, ActivityCompleted):
        named = "" if payload.compensation is None else f" (undone by {payload.compensation.name})"
        return short_json(payload.result) + named
    return "" if entry.payload in (None, {}) else short_json(entry.payload)
