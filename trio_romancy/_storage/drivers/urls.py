"""Reads the URL of a database: the server, the driver and its arguments."""

from __future__ import annotations

import re
import ssl
from importlib.util import find_spec
from typing import Any

from attrs import frozen
from sqlalchemy import URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ...errors import DatabaseError

CONNECT_TIMEOUT = 5
"""Default time in which a server must accept a connection, in seconds."""

Host = tuple[str, int | None]
"""A name or an address, and a port. None stands for the usual port."""


@frozen
class Server:
    """A database on a server."""

    name: str
    """Name of the database in messages: the URL without its password."""
    url: URL
    """URL for SQLAlchemy, with a driver for asyncio."""
    connect_args: dict[str, Any]
    """Arguments for the driver that the URL cannot hold."""
    must_encrypt: bool
    """Whether a connection without TLS is refused."""
    blocking_url: URL | None
    """URL for SQLAlchemy with a driver that blocks, if that is faster for a connection that writes continuously."""
    schema: str | None = None
    """Schema of the tables, on PostgreSQL; None: the usual one."""
    hosts: tuple[Host, ...] = ()
    """All hosts, if there are several. The URL has the first."""


@frozen
class _Driver:
    """The driver for a family of databases, and the options of its URLs."""

    name: str
    """SQLAlchemy's name of the driver."""
    extra: str
    """The extra of this package that installs the driver."""
    timeout: str
    """The driver's argument for the time that connecting may take."""
    tls_mode: str
    """Option with the TLS mode."""
    tls_files: tuple[str, str, str]
    """Options with the certificates of authorities, the client's certificate, and its key."""
    options: frozenset[str]
    """Other options, passed on to SQLAlchemy."""
    blocking: str | None = None
    """The driver that blocks and takes the same arguments, if it is used."""


_MYSQL = _Driver(
    "aiomysql",
    "mysql",
    "connect_timeout",
    "ssl_mode",
    ("ssl_ca", "ssl_cert", "ssl_key"),
    frozenset({"unix_socket"}),
    blocking="pymysql",
)
_POSTGRESQL = _Driver(
    "asyncpg",
    "postgresql",
    "timeout",
    "sslmode",
    ("sslrootcert", "sslcert", "sslkey"),
    frozenset({"host", "port", "target_session_attrs"}),
)
_DRIVERS = {
    "mysql": ("mysql", _MYSQL),
    "mariadb": ("mysql", _MYSQL),
    "postgres": ("postgresql", _POSTGRESQL),
    "postgresql": ("postgresql", _POSTGRESQL),
}

SCHEMES = (*_DRIVERS, "sqlite")

# libpq and the mysql client have different names for the same five modes.
_MODES = {
    "disable": "disable",
    "disabled": "disable",
    "prefer": "prefer",
    "preferred": "prefer",
    "require": "require",
    "required": "require",
    "verify-ca": "verify-ca",
    "verify_ca": "verify-ca",
    "verify-full": "verify-full",
    "verify_identity": "verify-full",
}

# As in SQLAlchemy, a password may contain anything but an @.
_SEVERAL_HOSTS = re.compile(
    r"(?P<before>[^:/]+://(?:[^:/@]*(?::[^@]*)?@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<after>[/?].*)?$", re.DOTALL
)
_HOST = re.compile(r"(?:\[(?P<address>[^\[\]\s]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>\d{1,5}))?")
_HOST_OPTIONS = ("host", "port", "unix_socket")

_USER = re.compile(r"[\w .%+@-]*")
"""A name of a user that holds no password."""
_MISTYPED = re.compile(
    rf"\s*({'|'.join(SCHEMES)})(\+\w*)?(:|//)|(?![a-z]:[/\\])[^/\\:]+:.*@", re.IGNORECASE | re.DOTALL
)
"""Beginning of what is meant to be a URL, and lacks a slash, a colon or the scheme."""
_UNQUOTED = re.compile(r"(?!sqlite)\w[\w+.-]*://(.*@.*@|[^:@]*/.*@)", re.IGNORECASE | re.DOTALL)
"""URL of a server with several @, or with one in the path."""


def read_url(text: str) -> tuple[URL, tuple[Host, ...]]:
    """Parse a URL that may name several hosts, as in ``mysql://user@one:3306,two:3306/database``.

    Returns the URL with the first host only, and all hosts if there are several.

    Raises:
      ArgumentError, ValueError: if the text is not a URL.
    """
    if _UNQUOTED.match(text):  # otherwise a part of a password would be taken for a host, and shown
        raise ValueError("an @ and a / in a user's name or a password are written as %40 and %2F")
    several = _SEVERAL_HOSTS.match(text)
    if several is None:
        return make_url(text), ()
    hosts = tuple(map(_read_host, several["hosts"].split(",")))
    first, _, _ = several["hosts"].partition(",")
    return make_url(several["before"] + first + (several["after"] or "")), hosts


def _read_host(text: str) -> Host:
    host = _HOST.fullmatch(text)
    port = None if host is None or host["port"] is None else int(host["port"])
    if host is None or (port is not None and not 1 <= port <= 65535):
        raise ValueError(f"{text!r} is not a host")
    return host["address"] or host["name"], port


def is_file_name(database: str) -> bool:
    """Tell whether the name of a database is that of a file: neither a URL nor a mistyped one."""
    return "://" not in database and _MISTYPED.match(database) is None


def file_of(url: str) -> str | None:
    """Return the file name of a SQLite database: empty if it is in memory, None if the URL is that of a server."""
    if url == ":memory:":
        return ""
    if is_file_name(url):
        return url
    try:
        parsed, _ = read_url(url)
    except (ArgumentError, ValueError):
        return None
    if parsed.get_backend_name() != "sqlite":
        return None
    return "" if parsed.database in (None, ":memory:") else parsed.database


def backend_of(url: str) -> str:
    """Return SQLAlchemy's name of the database of a URL, or the scheme of the URL if no database has it."""
    if file_of(url) is not None:
        return "sqlite"
    scheme = url.partition("://")[0].partition("+")[0]
    return _DRIVERS[scheme][0] if scheme in _DRIVERS else scheme


def shown_url(url: str) -> str:
    """Return a URL or a file name without its password and its options, to be shown.

    Nothing of a URL is shown that is mistyped, because its password may be in another part of it.
    """
    text = str(url)
    if is_file_name(text):
        return text
    try:
        parsed, hosts = read_url(text)
    except (ArgumentError, ValueError):
        return "the database URL"
    if parsed.username is not None and not _USER.fullmatch(parsed.username):
        return "the database URL"
    shown = parsed.set(query={}).render_as_string(hide_password=True)
    if not hosts:
        return shown
    first, *others = (_shown_host(*host) for host in hosts)
    # The hosts follow the user's name and password, in which an @ is encoded.
    start = shown.index(first, shown.index("://") + 3 if "@" not in shown else shown.index("@") + 1)
    return shown[:start] + ",".join((first, *others)) + shown[start + len(first) :]


def _shown_host(name: str, port: int | None) -> str:
    name = f"[{name}]" if ":" in name else name
    return name if port is None else f"{name}:{port}"


def parse_server(url: URL, shown: str, hosts: tuple[Host, ...] = ()) -> Server:
    """Return what the URL of a database server means.

    Args:
      url: the URL, as :func:`read_url` returns it.
      shown: the URL without its password, for messages.
      hosts: all hosts, if there are several.

    Raises:
      DatabaseError: if the scheme or an option is unknown, the driver is not installed, or a TLS file cannot be used.
    """
    scheme, _, driver_name = url.drivername.partition("+")
    if scheme not in _DRIVERS:
        raise DatabaseError(f"{shown}: the scheme of a database URL is one of {', '.join(sorted(SCHEMES))}")
    backend, driver = _DRIVERS[scheme]
    if driver_name not in ("", driver.name):
        raise DatabaseError(f"{shown}: the driver for {scheme} is {driver.name}; write {scheme}://...")
    if find_spec(driver.name) is None:
        raise DatabaseError(f"{shown}: {driver.name} is not installed; run: pip install 'trio_romancy[{driver.extra}]'")
    if not url.database:
        raise DatabaseError(f"{shown}: the URL names no database; write {scheme}://user@host/database")
    if hosts and (clash := [name for name in _HOST_OPTIONS if name in url.query]):
        raise DatabaseError(f"{shown}: a URL that names several hosts cannot have the option {clash[0]!r}")
    options = {key: value if isinstance(value, str) else value[-1] for key, value in url.query.items()}
    arguments: dict[str, Any] = {driver.timeout: _seconds(options.pop("connect_timeout", CONNECT_TIMEOUT), shown)}
    mode = _tls_mode(options.pop(driver.tls_mode, None), driver, shown)
    files = [options.pop(name, None) for name in driver.tls_files]
    if mode is None and any(files):
        mode = "verify-full" if files[0] else "require"
    if driver is _POSTGRESQL and mode in ("disable", "prefer"):
        arguments["ssl"] = mode
    elif mode not in (None, "disable"):
        arguments["ssl"] = _tls(mode, files, shown)
    if driver is _POSTGRESQL:
        options.pop("pgbouncer", None)  # for other libraries; here a pooler is recognised
        if options.pop("channel_binding", "prefer") == "require":
            raise DatabaseError(
                f"{shown}: {driver.name} cannot bind channels; write sslmode=verify-full, which makes sure of the "
                f"server, instead of channel_binding=require"
            )
    if unknown := sorted(options.keys() - driver.options):
        known = sorted({*driver.options, *driver.tls_files, driver.tls_mode, "connect_timeout"})
        raise DatabaseError(f"{shown}: unknown option {unknown[0]!r}; the options are {', '.join(known)}")
    if driver is _MYSQL:
        arguments["charset"] = "utf8mb4"
        if url.password is not None:
            # The drivers encode a password as latin-1. The server has it as the bytes that its clients send, in UTF-8.
            url = url.set(password=str(url.password).encode().decode("latin-1"))
    target = url.set(drivername=f"{backend}+{driver.name}", query=options)
    blocking = None if driver.blocking is None else target.set(drivername=f"{backend}+{driver.blocking}")
    must_encrypt = mode in ("require", "verify-ca", "verify-full")
    return Server(shown, target, arguments, must_encrypt, blocking, hosts=hosts)


def _seconds(text: str | int, shown: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise DatabaseError(f"{shown}: connect_timeout is a number of seconds, not {text!r}")
    return seconds


def _tls_mode(text: str | None, driver: _Driver, shown: str) -> str | None:
    if text is None:
        return None
    try:
        return _MODES[text.lower()]
    except KeyError:
        known = ", ".join(dict.fromkeys(_MODES.values()))
        raise DatabaseError(f"{shown}: {driver.tls_mode} is one of {known}, not {text!r}") from None


def _tls(mode: str, files: list[str | None], shown: str) -> Any:
    authorities, certificate, key = files
    try:
        context = ssl.create_default_context(cafile=authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(file for file in files if file is not None)
        raise DatabaseError(f"{shown}: the TLS files ({named}) cannot be used: {error}") from error
    if mode == "require" and authorities is not None:
        mode = "verify-ca"  # as in libpq
    context.check_hostname = mode == "verify-full"
    if mode in ("prefer", "require"):
        context.verify_mode = ssl.CERT_NONE
    return context
