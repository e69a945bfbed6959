"""What was answered with 202 outlives the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ..support.databases import SHARED_KINDS
from ..support.fork_server import fork_server_for
from .serving import STRUCTURED

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
    pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True),
]

CLIENTS = 4
AT_LEAST = 30
"""Events that are answered before the process is killed."""


def event(number: int) -> dict[str, object]:
    type = ("started", "collected")[number % 2]
    base = {"specversion": "1.0", "id": str(number), "source": "/tests", "type": type}
    return base | {"data": {"number": number}}


@contextmanager
def running(database: str, log: Path) -> Iterator[tuple[int, str]]:
    """A server. Gives its process id and its URL. It is killed in the end."""
    server = fork_server_for(database).start("tests.web.durability_server", database, str(log), stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        yield server.pid, server.stdout.readline().strip()


def post_until_killed(url: str, first: int, taken: list[int]) -> None:
    with httpx.Client(base_url=url) as http:
        for number in range(first, 100_000, CLIENTS):
            try:
                answer = http.post("/", json=event(number), headers=STRUCTURED)
            except httpx.TransportError:
                return
            assert answer.status_code == 202, answer.text
            taken.append(number)


def test_every_event_that_was_taken_is_delivered_after_kill_9(database: str, tmp_path: Path) -> None:
    log = tmp_path / "noted"
    log.touch()
    taken: list[int] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        with running(database, log) as (process, url):
            posting = [clients.submit(post_until_killed, url, first, taken) for first in range(CLIENTS)]
            while len(taken) < AT_LEAST and not any(each.done() for each in posting):
                time.sleep(0.001)
            os.kill(process, signal.SIGKILL)
        for each in posting:
            each.result()
    assert len(taken) >= AT_LEAST
    expected = {f"{('started', 'collected')[number % 2]} {number}" for number in taken}
    with running(database, log) as (_, url):
        until = time.monotonic() + 30
        while not expected <= set(log.read_text().splitlines()) and time.monotonic() < until:
            time.sleep(0.05)
        noted = Counter(log.read_text().splitlines())
        assert expected - noted.keys() == set()
        with httpx.Client(base_url=url) as http:
            for number in taken:
                answer = http.post("/", json=event(number), headers=STRUCTURED)
                assert (answer.status_code, answer.json()["duplicate"]) == (202, True)
    # An activity can be run again if its process dies before its outcome is recorded. An event cannot come again.
    assert sum(noted.values()) - len(noted) <= CLIENTS
