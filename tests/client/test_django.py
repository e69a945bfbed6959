"""``app.start_in(django.db.connection, ...)`` in Django's own transactions, with the smallest settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django
import django.db
import pytest
import trio
from attrs import evolve
from django.conf import settings
from django.db import connections, models, transaction

from trio_romancy import App, WorkflowContext, sync, workflow
from trio_romancy.errors import InstanceExistsError, RomancyError

from ..support.callers import arguments

if not settings.configured:
    in_memory = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(DATABASES={"default": in_memory}, LOGGING_CONFIG=None, TIME_ZONE="UTC")
    django.setup()

pytestmark = [pytest.mark.real_clock, pytest.mark.parametrize("kind", ["file", "postgresql"], indirect=True)]


class Order(models.Model):  # type: ignore[misc]  # Django has no types
    id = models.IntegerField(primary_key=True)

    class Meta:
        app_label = "shop"
        db_table = "orders"


@workflow(name="django_doubling")
async def doubling(ctx: WorkflowContext, number: int) -> int:
    return 2 * number


@pytest.fixture
def connection(database: str) -> Iterator[Any]:
    """``django.db.connection``, which leads to the database of the test."""
    there = connections.databases["default"]
    before = dict(there)
    if "://" not in database:
        there.update(ENGINE="django.db.backends.sqlite3", NAME=database, OPTIONS={"transaction_mode": "IMMEDIATE"})
    else:
        found = arguments(database, "NAME")
        there.update(
            ENGINE="django.db.backends.postgresql",
            NAME=found["NAME"],
            HOST=found["host"],
            PORT=found["port"],
            USER=found["user"],
            OPTIONS={},
        )
    connections["default"].close()  # made here, if it was not
    del connections["default"]
    try:
        with django.db.connection.schema_editor() as editor:
            editor.create_model(Order)
        yield django.db.connection
    finally:
        connections["default"].close()
        del connections["default"]
        there.update(before)


def orders() -> list[int]:
    return list(Order.objects.order_by("id").values_list("id", flat=True))


def start(database: str, connection: Any, *args: Any) -> str:
    """Start an instance as a view of Django does, which knows nothing of trio."""
    return sync.App(database).start_in(connection, *args).instance_id


def results(database: str, *instance_ids: str) -> list[object]:
    """Return the results of instances, by a worker; None for one that does not exist."""

    async def ask() -> list[object]:
        async with App(database) as app:
            with trio.fail_after(30):
                return [
                    None if await app.get_instance(id) is None else await app.handle(id).result() for id in instance_ids
                ]

    return trio.run(ask)


@pytest.fixture(autouse=True)
def tables(database: str) -> None:
    async def make() -> None:
        async with App(database, worker=False):
            pass

    trio.run(make)


def test_a_start_is_part_of_an_atomic_block(database: str, connection: Any) -> None:
    with transaction.atomic():
        Order.objects.create(id=1)
        kept = start(database, connection, doubling, 21)
        with pytest.raises(InstanceExistsError):
            start(database, connection, doubling.options(id=kept), 22)
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Order.objects.create(id=2)
        undone = start(database, connection, doubling, 1)
        raise ZeroDivisionError
    assert results(database, kept, undone) == [42, None]
    assert orders() == [1]


def test_an_inner_atomic_block_undoes_its_starts(database: str, connection: Any) -> None:
    with transaction.atomic():
        kept = start(database, connection, doubling, 1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Order.objects.create(id=1)
            undone = start(database, connection, doubling, 2)
            raise ZeroDivisionError
    assert results(database, kept, undone) == [2, None]
    assert orders() == []


def test_outside_of_an_atomic_block_a_start_is_refused(database: str, connection: Any) -> None:
    with pytest.raises(RomancyError, match=r"of Django commits each statement by itself, .*transaction\.atomic"):
        start(database, connection, doubling.options(id="refused"), 1)
    assert results(database, "refused") == [None]


def test_a_broken_block_is_refused_by_django(database: str, connection: Any) -> None:
    with transaction.atomic():
        with pytest.raises(django.db.IntegrityError), transaction.atomic(savepoint=False):
            Order.objects.create(id=1)
            Order.objects.create(id=1)
        with pytest.raises(django.db.transaction.TransactionManagementError):
            start(database, connection, doubling, 1)


def test_the_worker_is_notified_after_the_commit(database: str, connection: Any) -> None:
    """A worker of the same process, in a thread, whose app is that of the view."""
    notified: list[str] = []
    joined, _, _ = App(database).prepare_start_in(connection, doubling, (1,), {})
    joined = evolve(joined, notify=lambda: notified.append("after"))
    with transaction.atomic():
        joined.here()
        assert not notified
    assert notified == ["after"]
