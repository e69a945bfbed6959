"""Whether the files of a SQLite database are still those that this process has opened.

SQLite itself notices nothing in WAL mode: it goes on with the files that it holds open, although they have no name any
more, so that all that it stores is lost when the process ends.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from attrs import define, field

from ...errors import DatabaseAwayError

_logger = logging.getLogger("trio_romancy.database")

_EVERY = 0.05
"""Least seconds between two checks. A transaction costs more than a check, but a commit is the hot path."""


@define(eq=False)
class OpenFiles:
    """The file of a database, and the two that SQLite keeps beside it. Used by several threads at once."""

    _path: str
    _opened: dict[str, tuple[int, int]] = field(factory=dict, init=False)
    """Device and number of each file that has been seen, by its name."""
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _checked_at: float = field(default=0.0, init=False)
    _problem: str | None = field(default=None, init=False)

    def check(self) -> None:
        """Check that the names still belong to the files that were first seen under them.

        Does nothing if a check has just succeeded. The log names a file that is gone, once, and when it is back.

        Raises:
          DatabaseAwayError: if a file was deleted, moved or replaced: an outage until it is put back.
        """
        now = time.monotonic()
        if now < self._checked_at + _EVERY and self._problem is None:
            return
        with self._lock:
            problem, before = self._find_problem(), self._problem
            self._checked_at, self._problem = now, problem
        if problem is not None:
            if before is None:
                _logger.error("%s; nothing can be stored until then", problem)
            raise DatabaseAwayError(problem)
        if before is not None:
            _logger.warning("%s is back, and is used again", self._path)

    def _find_problem(self) -> str | None:
        for name in (self._path, f"{self._path}-wal", f"{self._path}-shm"):
            opened = self._opened.get(name)
            try:
                status = os.stat(name)
            except OSError as error:
                if opened is None:
                    continue  # SQLite creates it later
                happened = f"was deleted or moved while it was in use ({error.strerror})"
            else:
                if opened in (None, (status.st_dev, status.st_ino)):
                    self._opened[name] = status.st_dev, status.st_ino
                    continue
                happened = "was replaced by another file while it was in use"
            return f"{name} {happened}: put it back, or restart this process to go on with what is there"
        return None
