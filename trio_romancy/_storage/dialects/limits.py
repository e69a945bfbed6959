"""Limits on what a transaction of the engine may cost other transactions.

Used as attributes of this module, so that a test can shorten them in one place.
"""

LOCK_TIMEOUT = 5
"""Time a statement waits for a lock before its transaction is tried again, in seconds."""

IDLE_TIMEOUT = 5
"""Time a transaction of the engine may be idle before the server ends it and its connection, in seconds.

A process that is stopped, or cut off by the network, must not hold locks that others wait for. MySQL has no such limit.
"""
