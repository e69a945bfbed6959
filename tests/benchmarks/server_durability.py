"""Check that every commit on a server waits for the disk."""

from __future__ import annotations

from sqlalchemy import make_url

from tests.support.servers import execute

_MARIADB = ("innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog")
_POSTGRESQL = ("fsync", "synchronous_commit", "full_page_writes")


def version(url: str) -> str:
    """Return the version of the server."""
    ((text,),) = execute(url, "SHOW server_version" if _is_postgresql(url) else "SELECT VERSION()")
    return str(text).split(" ")[0]


def settings(url: str) -> dict[str, str]:
    """Return the settings of a new connection that decide whether its commits wait for the disk."""
    if _is_postgresql(url):
        names, asked = _POSTGRESQL, [f"current_setting('{name}')" for name in _POSTGRESQL]
    else:
        names, asked = _MARIADB, [f"@@{name}" for name in _MARIADB]
    (row,) = execute(url, f"SELECT {', '.join(asked)}")
    return dict(zip(names, map(str, row), strict=True))


def refusal(url: str) -> str | None:
    """Return why a commit may not be on disk when the server confirms it; None if it always is."""
    found = settings(url)
    if _is_postgresql(url):
        waits = found["fsync"] == "on" and found["synchronous_commit"] != "off"
    else:
        # A transaction missing from the binary log is rolled back when the server recovers.
        has_log = found["log_bin"] == "1" and found["sync_binlog"] != "1"
        waits = found["innodb_flush_log_at_trx_commit"] == "1" and not has_log
    return None if waits else f"not every commit waits for the disk: {found}"


def _is_postgresql(url: str) -> bool:
    return make_url(url).get_backend_name() == "postgresql"
