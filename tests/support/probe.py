"""What tests may see of a running app that its users cannot."""

from __future__ import annotations

from typing import Any

from trio_romancy import App


def worker_of(app: App) -> Any:
    worker = app._now_running().worker
    assert worker is not None
    return worker
