"""Lines and tables, on a terminal of any width, with or without colours, or in a file.

Ids and other text that a reader may copy are never cut off. A table that is too wide becomes paragraphs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..._data.log_fields import visible
from ..failures import NoReaderError
from .wording import Styled

_GAP = 2
_ENDLESS = 1_000_000


class Screen:
    """Standard output, or another stream."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        out: IO[str] = sys.stdout if stream is None else stream
        # Lines in a file are not broken, so that they can be searched. Text is never markup.
        self.width: int = shutil.get_terminal_size().columns if out.isatty() else _ENDLESS
        self._console = _Console(file=out, width=self.width, highlight=False, markup=False, emoji=False)

    @property
    def is_terminal(self) -> bool:
        """Whether the stream is a terminal."""
        return self._console.is_terminal

    def symbols(self, nice: str, plain: str) -> str:
        """Return ``nice``, or ``plain`` if the stream takes ASCII only."""
        return plain if self._console.options.ascii_only else nice

    def line(self, *parts: Styled, indent: int = 0, hang: int = 0) -> None:
        """Write a line, broken to the width of the terminal.

        Args:
          indent: columns before every line.
          hang: further columns before the second and later lines.
        """
        text = _text(parts)
        text.rstrip()
        room = self.width - indent
        if text.cell_len <= room:
            self._put(text, indent)
            return
        first, *_ = text.wrap(self._console, room, overflow="fold")
        rest = text[len(first) :]
        rest = rest[len(rest.plain) - len(rest.plain.lstrip(" ")) :]
        first.rstrip()
        self._put(first, indent)
        if rest:
            for line in rest.wrap(self._console, max(room - hang, 1), overflow="fold"):
                line.rstrip()
                self._put(line, indent + hang)

    def lines(self, text: str, indent: int = 0) -> None:
        """Write text that contains line breaks."""
        for line in text.splitlines():
            blanks = len(line) - len(line.lstrip(" "))
            self.line(line.lstrip(" "), indent=min(indent + blanks, self.width // 2), hang=2)

    def whole(self, *parts: Styled) -> None:
        """Write a line without breaking it, so that it can be copied as one. The terminal wraps it."""
        self._put(_text(parts), 0)

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[Styled]]) -> None:
        """Write a table. If it is too wide, write each row as a paragraph that begins with its first cell."""
        rows = list(rows)
        texts = [[_text([cell]) for cell in row] for row in rows]
        widths = [max(cell_len(h), *(row[i].cell_len for row in texts), 0) for i, h in enumerate(heads)]
        if sum(widths) + _GAP * (len(widths) - 1) <= self.width:
            self._put(_row([Text(head, "bold") for head in heads], widths), 0)
            for row in texts:
                self._put(_row(row, widths), 0)
            return
        for cells, row in zip(rows, texts, strict=True):
            self.line((row[0].plain, "bold"))
            shown = zip(heads[1:], cells[1:], row[1:], strict=True)
            self.facts([(head, cell) for head, cell, text in shown if text.plain], indent=2)

    def facts(self, facts: Iterable[tuple[str, Styled]], indent: int = 0) -> None:
        """Write a list of names and values."""
        facts = list(facts)
        column = max((cell_len(name) for name, _ in facts), default=0) + _GAP
        for name, value in facts:
            text = _text([value])
            longest = max(map(cell_len, text.plain.split(" ")))
            hang = column if longest <= self.width - indent - column else _GAP  # an id stays in one piece
            self.line((name.ljust(column), "dim"), value, indent=indent, hang=hang)

    def _put(self, text: Text, indent: int) -> None:
        self._console.print(Text(" " * indent).append_text(text) if indent else text, soft_wrap=True)


class _Console(Console):
    """A console that raises an error if its reader is gone, where that of rich ends the process."""

    def on_broken_pipe(self) -> None:
        raise NoReaderError


def _text(parts: Iterable[Styled]) -> Text:
    text = Text()
    for part in parts:
        plain, style = part if isinstance(part, tuple) else (part, "")
        text.append_text(Text(visible(plain), style))
    return text


def _row(cells: Sequence[Text], widths: Sequence[int]) -> Text:
    row = Text()
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        row.append_text(cell)
        if number < len(cells) - 1:
            row.append(" " * (width - cell.cell_len + _GAP))
    row.rstrip()
    return row
