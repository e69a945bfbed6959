"""A listener of a journal that keeps what it is told."""

from __future__ import annotations

from trio_romancy._storage.journal.committed import Committed


class Listener:
    def __init__(self) -> None:
        self.batches: list[Committed] = []
        self.refusals: list[tuple[str, Exception]] = []
        self.is_lost = False

    def committed(self, committed: Committed) -> None:
        self.batches.append(committed)

    def refused(self, instance_id: str, error: Exception) -> None:
        self.refusals.append((instance_id, error))

    def lost(self) -> None:
        self.is_lost = True
