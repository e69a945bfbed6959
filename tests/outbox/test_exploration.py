"""What an activity sends to the broker reaches it, in order, wherever the worker dies and whatever the broker does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from trio_romancy import App, OutboxStatus, WorkflowContext, activity, current_activity, workflow
from trio_romancy.testing import explore_crashes

from ..support.broker import LOSE, Answer, Broker, Post, free_port, no, open_broker

pytestmark = pytest.mark.long


@activity
async def outbox_exploration_announce(number: int) -> int:
    current_activity().send_event("outbox.announced", {"number": number}, id=f"{number}a")
    current_activity().send_event("outbox.announced", {"number": number}, id=f"{number}b")
    return number


@workflow
async def outbox_exploration_workflow(ctx: WorkflowContext) -> int:
    for number in range(1, 4):
        await outbox_exploration_announce(number)
    return 3


def moods(broker: Broker) -> None:
    """Make it fail with the first, take the second and lose the answer, and ask for patience at the fifth."""
    seen: Counter[str] = Counter()
    answers = {"1a": [no(503), no(500)], "1b": [LOSE], "3a": [no(429, retry_after="2")]}

    def decide(post: Post) -> Answer:
        seen[post.id] += 1
        scripted = answers.get(post.id, [])
        return scripted[seen[post.id] - 1] if seen[post.id] <= len(scripted) else Answer()

    broker.decide = decide


def test_events_of_activities_reach_a_broker_that_fails_and_answers_twice_wherever_the_worker_dies() -> None:
    port = free_port()

    async def scenario(app: App) -> Any:
        async with open_broker(port) as broker:
            moods(broker)
            handle = await app.start(outbox_exploration_workflow.options(id="announcer"))
            assert await handle.result() == 3
            while await app.outbox.list(status=OutboxStatus.PENDING):  # noqa: ASYNC110
                await trio.sleep(0.5)
            # At least once; the order is that in which each came first.
            return list(dict.fromkeys(broker.taken)), [event.status for event in await app.outbox.list()]

    exploration = explore_crashes(scenario, broker_url=f"http://127.0.0.1:{port}/")
    assert exploration.reference.result == (["1a", "1b", "2a", "2b", "3a", "3b"], [OutboxStatus.SENT] * 6)
    assert exploration.points > 50
