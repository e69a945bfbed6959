"""Runs modules as ``python -m`` does, in processes that need not import the library first.

A process of its own, ``python -m tests.support.fork_server FD MODULES``, imports what the programs use, and is forked
for each of them. Only the start of the interpreter and those imports are left out, which take longer than most programs
of the tests do. No program outlives the process that has asked for it.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import math
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import IO

import trio
from attrs import define, field

ROOT = Path(__file__).parents[2]

COMMANDS = (
    "rich.markup",
    "rich.padding",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "trio_romancy.cli.commands",
    "trio_romancy.cli.program",
    "typer.rich_utils",
)
"""What commands of the command line import."""

APPS_ON_FILES = ("alembic.migration", "alembic.operations", "sqlalchemy.dialects.sqlite.pysqlite", "trio_romancy.app")
"""What a program imports that opens an app on a file."""

APPS_ON_SERVERS = (
    *APPS_ON_FILES,
    "sqlalchemy.dialects.mysql.aiomysql",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "aiomysql",
    "asyncpg",
    "pymysql",
    "trio_romancy._storage.drivers.asyncio_server",
)
"""What a program imports that opens an app on a server. An app on a file imports no asyncio."""

LARGEST = 1 << 20
"""Bytes of a request."""

_PR_SET_PDEATHSIG = 1


@define(eq=False)
class Process:
    """A program that runs, or has run. It is the leader of a session of its own, and so of a process group.

    As a context manager it ends with the block.
    """

    pid: int
    stdin: IO[bytes] | None
    """Our end of its standard input, if that is a pipe."""
    stdout: IO[str] | None
    """Our end of its standard output, if that is a pipe."""
    _answer: socket.socket
    _code: int | None = field(default=None, init=False)

    def send_signal(self, what: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, what)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Its exit code, which is negative after a signal; None if it runs."""
        with suppress(TimeoutError):
            return self.wait(0)
        return None

    def wait(self, timeout: float = math.inf) -> int:
        """Wait for its end, and return its exit code. Raises TimeoutError."""
        if self._code is None:
            poll = select.poll()
            poll.register(self._answer, select.POLLIN)
            if not poll.poll(None if math.isinf(timeout) else timeout * 1000):
                raise TimeoutError
            # The answer is left there: several threads may wait for it.
            self._code = int(self._answer.recv(64, socket.MSG_PEEK))
        return self._code

    def end(self) -> None:
        """Kill it if it runs, wait for that, and close the pipes."""
        self.kill()
        self.wait()
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@cache
def fork_server(modules: tuple[str, ...]) -> ForkServer:
    """The fork server of this process that has imported those modules."""
    return ForkServer(modules)


def fork_server_for(database: str) -> ForkServer:
    """The fork server for programs that open an app on that database."""
    return fork_server(APPS_ON_SERVERS if "://" in database else APPS_ON_FILES)


class ForkServer:
    """The process that is forked. It ends with the one that has started it."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno()), *modules]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])

    def start(
        self,
        module: str,
        *arguments: str,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int = 2,
        environment: Mapping[str, str] = os.environ,
        directory: Path = ROOT,
    ) -> Process:
        """Start ``python -m module`` with these arguments.

        Args:
          stdin: the file of its standard input; ``subprocess.PIPE`` is a pipe, and None an empty file.
          stdout: the file of its standard output; ``subprocess.PIPE`` is a pipe, and None that of this process.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps([module, arguments, dict(environment), str(directory)]).encode()
        to_close = [theirs.detach()]
        into = out_of = None
        if stdin is None:
            to_close.append(stdin := os.open(os.devnull, os.O_RDONLY))
        elif stdin == subprocess.PIPE:
            stdin, end = os.pipe()
            to_close.append(stdin)
            into = os.fdopen(end, "wb", buffering=0)
        if stdout is None:
            stdout = 1
        elif stdout == subprocess.PIPE:
            end, stdout = os.pipe()
            to_close.append(stdout)
            out_of = os.fdopen(end)
        try:
            socket.send_fds(self._requests, [request], [stdin, stdout, stderr, to_close[0]])
        finally:
            for file in to_close:
                os.close(file)
        return Process(int(ours.recv(64)), into, out_of, ours)


def serve(requests: socket.socket) -> None:
    """Start each requested program, until the socket of requests is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal of the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the keepers are not waited for
    gc.collect()
    gc.freeze()  # a collection in a program would copy the pages of all that was imported
    server = os.getpid()
    while True:
        request, files, _, _ = socket.recv_fds(requests, LARGEST, 4)
        if not request:
            return
        if os.fork() == 0:
            _die_with_parent(server)
            requests.close()
            keep(json.loads(request), files)
        for file in files:
            os.close(file)


def keep(request: tuple[str, list[str], dict[str, str], str], files: list[int]) -> None:
    """Run one program in a child, and tell its pid and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, answer = files
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        os.setsid()
        _die_with_parent(keeper)
        for number, file in enumerate(standard):
            os.dup2(file, number)
        for file in set(standard) - {0, 1, 2}:
            os.close(file)
        be_program(*request)
    with socket.socket(fileno=answer) as told:
        for file in standard:
            os.close(file)
        told.send(str(pid).encode())
        told.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def be_program(module: str, arguments: list[str], environment: dict[str, str], directory: str) -> None:
    """Be ``python -m module`` from here on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    trio._core._run._r.seed()  # or all programs would run their tasks in the same order
    sys.argv = [module, *arguments]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), encoding="utf-8")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(file, "w")), encoding="utf-8", line_buffering=os.isatty(file))
        for file in (1, 2)
    )
    sys.stderr.reconfigure(errors="backslashreplace", line_buffering=True)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()  # through all callers, to the end of the interpreter


def _die_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _import(name: str) -> None:
    """Import a module, and the modules of a package."""
    module = import_module(name)
    if name == "trio_romancy.cli.commands":
        for each in iter_modules(module.__path__):
            import_module(f"{name}.{each.name}")


if __name__ == "__main__":
    for name in sys.argv[2:]:
        _import(name)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        serve(requests)
