"""A private PgBouncer in transaction mode, before a server of PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from .servers import WATCH, ServerMissingError

_CONFIG = """[databases]
{name} = host={host} port={port} dbname={name} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""
START_TIMEOUT = 30.0


@contextmanager
def open_pgbouncer(url: str, *, sessions: int = 6) -> Iterator[str]:
    """Start a pooler before the database of a URL, and yield the URL that leads through it.

    Args:
      sessions: the most sessions that the pooler has on the server.

    Raises:
      ServerMissingError: if PgBouncer is not installed.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise ServerMissingError("PgBouncer is not installed (apt-get install pgbouncer)")
    server = make_url(url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="romancy-"))
    directory.chmod(0o755)
    config = directory / "pgbouncer.ini"
    config.write_text(
        _CONFIG.format(
            name=server.database,
            host=server.host,
            port=server.port or 5432,
            user=server.username,
            own=own,
            sessions=sessions,
        )
    )
    user = None if os.geteuid() else "nobody"  # it does not run as root
    with (directory / "log").open("wb") as log:
        pooler = subprocess.Popen(
            [program, "-q", str(config)], user=user, stdout=log, stderr=log, start_new_session=True
        )
    watchdog = subprocess.Popen(
        ["sh", "-c", WATCH, str(pooler.pid), str(directory)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        _await_start(pooler, own, directory / "log")
        yield server.set(host="127.0.0.1", port=own).render_as_string(hide_password=False)
    finally:
        pooler.kill()
        pooler.wait()
        watchdog.kill()
        watchdog.communicate()
        shutil.rmtree(directory, ignore_errors=True)


def _await_start(pooler: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if pooler.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer does not start: {log.read_text(errors='replace')[-500:]}") from None
        time.sleep(0.02)
