"""Commands by which a worker process disturbs itself: ``clock SECONDS`` and ``block SECONDS``, on standard input."""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import datetime

import trio

FARTHEST = 3600.0
"""Seconds by which a clock is wrong at most."""

_true_time, _true_time_ns = time.time, time.time_ns
_ahead_ns = 0


class TrueTimeFormatter(logging.Formatter):
    """Tells the time of the machine, whatever the process believes."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{datetime.now():%H:%M:%S.%f}"


def set_clock(seconds: float) -> None:
    """Have the wall clock of this process show so many seconds more than that of the machine."""
    global _ahead_ns
    _ahead_ns = round(seconds * 1_000_000_000)
    time.time = lambda: _true_time() + _ahead_ns / 1_000_000_000
    time.time_ns = lambda: _true_time_ns() + _ahead_ns


def obey_commands() -> None:
    """Carry out commands in the current trio run until the process ends."""
    token = trio.lowlevel.current_trio_token()
    threading.Thread(target=_obey, args=(token,), name="chaos: commands", daemon=True).start()


def _obey(token: trio.lowlevel.TrioToken) -> None:
    rest = b""
    # Not through sys.stdin: a thread that waits in there keeps a lock that the end of the interpreter needs.
    while chunk := os.read(0, 4096):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            command, value = line.decode().split()
            if command == "clock":
                set_clock(float(value))
            elif command == "block":
                try:
                    token.run_sync_soon(time.sleep, float(value))
                except trio.RunFinishedError:
                    return
