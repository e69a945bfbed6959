"""Money that is moved by session transactions, while the server crashes."""

from __future__ import annotations

import random

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import App, EntryKind, WorkflowContext, activity, current_activity, workflow
from trio_romancy.testing import broken_guarantees

from ..support.servers import PrivateServer, execute

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

ACCOUNTS = 20
BALANCE = 1000
TRANSFERS = 200
CRASHES = 5


async def book(transfer: int, account: int, amount: int) -> None:
    session = current_activity().session
    await session.execute(
        sa.text("INSERT INTO bookings (transfer, account, amount) VALUES (:t, :a, :n)"),
        {"t": transfer, "a": account, "n": amount},
    )
    await session.execute(
        sa.text("UPDATE accounts SET balance = balance + :n WHERE id = :a"), {"n": amount, "a": account}
    )


@activity(name="money_debit")
async def debit(transfer: int, account: int, amount: int) -> None:
    await book(transfer, account, -amount)


@activity(name="money_credit")
async def credit(transfer: int, account: int, amount: int) -> None:
    await book(transfer, account, amount)


@activity(name="money_debit_and_credit")
async def debit_and_credit(transfer: int, source: int, target: int, amount: int) -> None:
    await book(transfer, source, -amount)
    await book(transfer, target, amount)


@workflow(name="money_transfer_money")
async def transfer_money(ctx: WorkflowContext, transfer: int, source: int, target: int, amount: int) -> int:
    if transfer % 2:
        await debit_and_credit(transfer, source, target, amount)
    else:
        await debit(transfer, source, amount)
        await credit(transfer, target, amount)
    return transfer


async def test_money_transfers_survive_five_crashes_of_the_server(server: PrivateServer, database: str) -> None:
    execute(
        database,
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER)",
        "CREATE TABLE bookings (transfer INTEGER, account INTEGER, amount INTEGER, PRIMARY KEY (transfer, account))",
        f"INSERT INTO accounts VALUES {', '.join(f'({n}, {BALANCE})' for n in range(ACCOUNTS))}",
    )
    dice = random.Random(7)
    plans = [(dice.sample(range(ACCOUNTS), 2), dice.randint(1, 100)) for _ in range(TRANSFERS)]
    done = 0
    at_once = trio.Semaphore(50)

    async with App(database) as app:

        async def transfer(number: int, source: int, target: int, amount: int) -> None:
            nonlocal done
            async with at_once:
                handle = await app.start(transfer_money, number, source, target, amount)
                assert await handle.result() == number
            done += 1
            instance = await app.get_instance(handle.instance_id)
            assert instance is not None
            history = await app.history(handle.instance_id)
            assert broken_guarantees(instance, history) == []
            failed = [entry.payload for entry in history if entry.kind is EntryKind.ATTEMPT_FAILED]
            assert not failed, failed[0]

        async with trio.open_nursery() as nursery:
            for number, ((source, target), amount) in enumerate(plans):
                nursery.start_soon(transfer, number, source, target, amount)
            for crash in range(1, CRASHES + 1):
                while done < crash * TRANSFERS // (CRASHES + 2):  # noqa: ASYNC110
                    await trio.sleep(0.001)
                assert done < TRANSFERS  # it hits some of them
                await trio.to_thread.run_sync(server.kill)
                await trio.sleep(0.1 * crash)
                await trio.to_thread.run_sync(server.start)

    balances = dict.fromkeys(range(ACCOUNTS), BALANCE)
    for (source, target), amount in plans:
        balances[source] -= amount
        balances[target] += amount
    assert execute(database, "SELECT sum(balance) FROM accounts") == [(ACCOUNTS * BALANCE,)]
    assert dict(execute(database, "SELECT id, balance FROM accounts")) == balances
    assert execute(database, "SELECT count(*), count(DISTINCT transfer) FROM bookings") == [(2 * TRANSFERS, TRANSFERS)]
