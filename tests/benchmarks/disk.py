"""Latency of the disk, which every durable commit waits for."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path


def sync_ms(path: str = "disk-probe", times: int = 50) -> float:
    """Return the median of the milliseconds to write and sync a page, ``times`` times.

    Makes and removes a file at ``path``.
    """
    taken = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        for _ in range(times):
            begun = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
            taken.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
        Path(path).unlink()
    return statistics.median(taken) * 1000
