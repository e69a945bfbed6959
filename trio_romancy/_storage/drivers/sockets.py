"""The socket below a driver's connection."""

from __future__ import annotations

import socket as socket_module
import ssl
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET
from typing import Any

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
