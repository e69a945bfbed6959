"""Processes that take orders, each with its instance in one transaction, and are killed at random meanwhile.

Run as ``python -m tests.support.shop URL ORDERS SEED SECONDS``, with the longest time between two kills. It prints how
often it has killed a process, and on standard error a dot for each order that was rolled back on purpose.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from typing import Any

import psycopg
import pymysql
import trio

from trio_romancy import App, WorkflowContext, workflow

from .callers import arguments

PROCESSES = 4
_ROLLED_BACK = 0.2
"""Part of the orders that are rolled back."""
_SOONEST = 0.02
"""Shortest time between two kills, in seconds."""


@workflow(name="shop_order")
async def shop_order(ctx: WorkflowContext, order: int) -> int:
    return order


def connect(url: str) -> Any:
    if "://" not in url:
        return sqlite3.connect(url, isolation_level="IMMEDIATE", timeout=60)
    if url.startswith("postgres"):
        return psycopg.connect(**arguments(url, "dbname"))
    return pymysql.connect(**arguments(url, "database"))


async def take_orders(url: str, numbers: range, seed: float) -> None:
    """Take the orders of these numbers that have not been taken. Some are first rolled back."""
    choices = random.Random(seed)
    app = App(url)
    with closing(connect(url)) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT id FROM orders WHERE id >= {numbers.start} AND id < {numbers.stop}")
        taken = {id for (id,) in cursor.fetchall()}
        connection.rollback()
        for number in numbers:
            if number in taken:
                continue
            while True:
                instance_first = choices.random() < 0.5
                if instance_first:
                    await app.start_in(connection, shop_order, number)
                cursor.execute(f"INSERT INTO orders VALUES ({number})")
                if not instance_first:
                    await app.start_in(connection, shop_order, number)
                if choices.random() < _ROLLED_BACK:
                    connection.rollback()
                    os.write(2, b".")
                else:
                    connection.commit()
                    break


def fork(url: str, numbers: range, seed: float) -> int:
    child = os.fork()
    if child == 0:
        try:
            trio.run(take_orders, url, numbers, seed)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child


def run(url: str, orders: int, seed: int, latest: float) -> int:
    """Have all orders taken. Return the number of kills."""
    choices = random.Random(seed)
    share = orders // PROCESSES
    ranges = [range(each * share, (each + 1) * share) for each in range(PROCESSES)]
    running = {fork(url, numbers, choices.random()): numbers for numbers in ranges}
    kills = 0
    while running:
        time.sleep(choices.uniform(_SOONEST, latest))
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del running[child]
                if status:
                    raise RuntimeError(f"a process has ended with status {status}")
        if running:
            victim = choices.choice(list(running))
            numbers = running.pop(victim)
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            kills += 1
            running[fork(url, numbers, choices.random())] = numbers
    return kills


if __name__ == "__main__":
    print(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
