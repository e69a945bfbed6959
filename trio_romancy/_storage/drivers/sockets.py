"""The socket below a driver's connection."""

from __future__ import annotations

import socket as socket_module
import ssl
import struct
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from ..dialects.dbapi import driver_connection

_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
"""Values of the socket options: in seconds, seconds, probes, milliseconds."""


def find_socket(connection: Any) -> tuple[Any, bool]:
    """Return the socket of a connection of PyMySQL, aiomysql or asyncpg, and whether it is encrypted."""
    if hasattr(connection, "_sock"):  # PyMySQL
        return connection._sock, isinstance(connection._sock, ssl.SSLSocket)
    writer = getattr(connection, "_writer", None)  # aiomysql
    transport = connection._transport if writer is None else writer.transport
    return transport.get_extra_info("socket"), transport.get_extra_info("ssl_object") is not None


def keep_alive(socket: Any) -> None:
    """Detect within half a minute that the other end of a TCP connection is gone. See tcp(7)."""
    if socket is None or socket.family not in (AF_INET, AF_INET6):
        return
    socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if (option := getattr(socket_module, name, None)) is not None:  # not every system has all of them
            socket.setsockopt(IPPROTO_TCP, option, value)


_CARRIED = struct.Struct("=120x2Q")
"""The beginning of Linux's ``struct tcp_info`` up to the bytes that the other end has confirmed, and those received."""


def carried_bytes(connection: AsyncConnection | None) -> int | None:
    """Return how many bytes a TCP connection has carried both ways, as far as its other end has confirmed them.

    None if there is no connection, or if the system does not tell: only Linux does. See tcp(7), TCP_INFO.
    """
    sync = None if connection is None else connection.sync_connection
    if sync is None or sync.closed or sync.invalidated:
        return None
    socket = find_socket(driver_connection(sync.connection))[0]
    option = getattr(socket_module, "TCP_INFO", None)
    if option is None or socket is None or socket.family not in (AF_INET, AF_INET6):
        return None
    try:
        confirmed, received = _CARRIED.unpack(socket.getsockopt(IPPROTO_TCP, option, _CARRIED.size))
    except (OSError, struct.error):  # it is closed, or the system is older
        return None
    return int(confirmed + received)
