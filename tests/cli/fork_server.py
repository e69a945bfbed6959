"""Runs commands as processes that need not import the library first: ``python -m tests.cli.fork_server FD``.

A process of its own imports what commands use, and is forked for each of them. Nothing else than the start of the
interpreter differs from ``python -m trio_romancy``, which takes longer than most commands do.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

from attrs import define, field

ROOT = Path(__file__).parents[2]

IMPORTED = (
    "rich.markup",
    "rich.padding",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "trio_romancy.cli.program",
    "typer.rich_utils",
)
"""What commands import, besides the modules of the commands."""

LARGEST = 1 << 20
"""Bytes of a request."""


@define
class Command:
    """A command that runs, or has run."""

    pid: int
    _answer: socket.socket
    _code: int | None = field(default=None, init=False)

    def send_signal(self, what: signal.Signals) -> None:
        if self._code is None:
            os.kill(self.pid, what)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; that of a signal is negative. Raises TimeoutError."""
        if self._code is None:
            self._answer.settimeout(timeout)
            self._code = int(self._answer.recv(64))
            self._answer.close()
        return self._code

    def end(self) -> None:
        """Kill it if it runs, and wait for that."""
        if self._code is None:
            self.send_signal(signal.SIGKILL)
            self.wait()


class ForkServer:
    """The process that is forked. It ends with the one that has started it."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.cli.fork_server", str(theirs.fileno())]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])

    def start(self, arguments: tuple[str, ...], environment: dict[str, str], files: tuple[int, int, int]) -> Command:
        """Start ``trio-romancy`` with these arguments on these standard files."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = json.dumps([arguments, environment]).encode()
            socket.send_fds(self._requests, [request], [*files, theirs.fileno()])
        return Command(int(ours.recv(64)), ours)


def serve(requests: socket.socket) -> None:
    """Start each requested program, until the socket of requests is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal of the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the keepers are not waited for
    while True:
        request, files, _, _ = socket.recv_fds(requests, LARGEST, 4)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            arguments, environment = json.loads(request)
            keep(arguments, environment, files)
        for file in files:
            os.close(file)


def keep(arguments: list[str], environment: dict[str, str], files: list[int]) -> None:
    """Run one command in a child, and tell its pid and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, answer = files
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        os.setsid()
        for number, file in enumerate(standard):
            os.dup2(file, number)
            os.close(file)
        be_command(arguments, environment)
    with socket.socket(fileno=answer) as told:
        for file in standard:
            os.close(file)
        told.send(str(pid).encode())
        told.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def be_command(arguments: list[str], environment: dict[str, str]) -> None:
    """Be ``python -m trio_romancy`` from here on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["trio-romancy", *arguments]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), encoding="utf-8")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(file, "w")), encoding="utf-8", line_buffering=os.isatty(file))
        for file in (1, 2)
    )
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)
    runpy.run_module("trio_romancy", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    from importlib import import_module
    from pkgutil import iter_modules

    from trio_romancy.cli import commands

    for name in (*IMPORTED, *(f"{commands.__name__}.{module.name}" for module in iter_modules(commands.__path__))):
        import_module(name)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        serve(requests)
