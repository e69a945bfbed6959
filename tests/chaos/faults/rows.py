"""Rows that an outsider has damaged: exactly their instances are parked, and the log names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio
from attrs import frozen

from ..load import Plan
from ..target import Target
from ..worker import LEASE
from ..workflows import BROKEN_ID, TOLD
from .fault import Fault, Scene, SmallFault

WAIT_WITHIN = 20.0
"""Seconds in which the prey must wait, without an owner. Otherwise nothing is done to it."""


@frozen
class Damage:
    """What is done to an instance that waits in no worker's memory, and what its error says of that."""

    sql: str
    says: str


_ENTRY = "UPDATE romancy_history SET {} WHERE instance_id = '{{id}}' AND seq = 1"
_INSTANCE = "UPDATE romancy_instances SET wake_at = 0, {} WHERE instance_id = '{{id}}'"

DAMAGES = [
    Damage(_ENTRY.format("payload = '{{{{{{'"), "entry 1 of its journal"),
    Damage(_ENTRY.format("payload = '[1]'"), "entry 1 of its journal"),
    Damage(_ENTRY.format("kind = 'teleported'"), "does not know that kind"),
    Damage(_INSTANCE.format("status = 'confused'"), "its row cannot be read: $.status"),
    Damage(_INSTANCE.format("input = '{{{{{{'"), "its input cannot be read"),
]

_WORKER = """
    INSERT INTO romancy_workers (worker_id, epoch, batch, expires_at, joined_at, process)
    VALUES ('{name}', 1, 0, {expires_at}, {now}, '{{{{{{')
"""
_EVENT = f"""
    INSERT INTO romancy_outbox
      (instance_id, seq, number, event_id, source, type, time, data, status, attempts, due_at, created_at)
    VALUES ('{{id}}', 99, 0, '{BROKEN_ID}', '/chaos', '{TOLD}', 0, '{{{{{{{{{{{{', 'pending', 0, 0, 0)
"""
_GIVE = "UPDATE romancy_instances SET owner = '{name}' WHERE instance_id = '{id}'"


def faults(target: Target) -> list[Fault]:
    return [
        SmallFault("bad row", 2, spoil_an_instance),
        SmallFault("bad worker row", 1, spoil_a_worker),
        SmallFault("bad outbox row", 1, spoil_an_event),
    ]


async def spoil_an_instance(scene: Scene) -> None:
    damage = scene.dice.choice(DAMAGES)

    def spoil(plan: Plan) -> Sequence[str]:
        plan.stuck_because = damage.says
        return [damage.sql.format(id=plan.instance_id)]

    await _with_prey(scene, spoil)


async def spoil_a_worker(scene: Scene) -> None:
    """A worker whose row cannot be read owns an instance, and its lease ends: the instance goes on elsewhere."""

    def spoil(plan: Plan) -> Sequence[str]:
        name = f"unreadable-{plan.instance_id}"
        scene.load.expected.damaged.add(name)
        now = scene.load.now()
        expires_at = now + round(LEASE * 1_000_000)
        return [
            _WORKER.format(name=name, expires_at=expires_at, now=now),
            _GIVE.format(name=name, id=plan.instance_id),
        ]

    await _with_prey(scene, spoil)


async def spoil_an_event(scene: Scene) -> None:
    """An event for the broker cannot be read. Its instance has nothing to do with that, and ends well."""

    def spoil(plan: Plan) -> Sequence[str]:
        scene.load.expected.damaged.add(plan.instance_id)
        return [_EVENT.format(id=plan.instance_id)]

    await _with_prey(scene, spoil)


async def _with_prey(scene: Scene, spoil: Callable[[Plan], Sequence[str]]) -> None:
    """Start an instance, do something to its rows while it waits for an event, and send that."""
    plan = await scene.load.start_prey()
    with trio.move_on_after(WAIT_WITHIN):
        while not await scene.insist(partial(_is_passive, scene.target, plan.instance_id)):  # noqa: ASYNC110
            await trio.sleep(0.2)
        statements = spoil(plan)
        with trio.CancelScope(shield=True):
            await scene.insist(partial(scene.target.execute_at_once, *statements))
    await scene.load.feed_prey(plan)


def _is_passive(target: Target, instance_id: str) -> bool:
    return target.execute(
        f"SELECT owner, wake_at, status FROM romancy_instances WHERE instance_id = '{instance_id}'"
    ) == [(None, None, "waiting")]
