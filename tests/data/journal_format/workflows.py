"""Workflows whose journals hold every kind of entry, and what happens to their instances.

They are defined when asked for, by the program that records journals with another version of the library and by the
test that goes on with them. So nothing but the public names of that version may be used here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import trio

from trio_romancy import (
    ActivityError,
    App,
    ChildWorkflowError,
    EntryKind,
    EventTimeoutError,
    InstanceExistsError,
    RetryPolicy,
    Status,
    TerminalError,
    WorkflowContext,
    activity,
    compensation,
    current_activity,
    workflow,
)

LATER = 2.0
"""Seconds until what is tried again or fires in an unfinished instance: it is then stored before that."""

broken: set[str] = set()
"""What fails for good."""

UNFINISHED = (
    "order-new",
    "order-waiting",
    "order-sleeping",
    "order-cancel-requested",
    "undo-waiting",
    "undo-cancelled",
    "undo-resumed",
    "retried-again",
    "family-waiting",
    "family-cancelled",
    "talk-waiting",
    "loop",
)
"""Instances that have not ended when the journals are recorded."""


def define() -> dict[str, Any]:
    """Define the workflows. Returns them by name."""

    @compensation(name="journals_release", retry=RetryPolicy.fixed(2, LATER))
    async def release(item: str, result: dict[str, Any]) -> None:
        if f"release {item}" in broken:
            raise TerminalError(f"{item} is gone")
        if item.startswith("slow") and current_activity().attempt == 1:
            raise OSError(f"{item} is not to be had now")

    @compensation(name="journals_forget")
    async def forget(result: str) -> None:
        assert result.startswith("noted"), result

    @activity(name="journals_reserve", compensation=release, retry=RetryPolicy.fixed(3, 0.01))
    async def reserve(item: str, amount: int = 1) -> dict[str, Any]:
        if item.startswith("flaky") and current_activity().attempt == 1:
            raise OSError(f"no connection, says the store of {item} \N{SNOWMAN}")
        return {"item": item, "amount": amount}

    @activity(name="journals_note", compensation=forget)
    async def note(text: str) -> str:
        return f"noted {text}"

    @activity(name="journals_fetch", retry=RetryPolicy.fixed(2, 0.01))
    async def fetch(what: str) -> str:
        if what in broken:
            raise OSError(f"{what} is not there")
        return what.upper()

    @activity(name="journals_refuse")
    async def refuse(what: str) -> None:
        raise TerminalError(f"{what} is refused")

    @activity(name="journals_watch", cancellable=True)
    async def watch() -> None:
        await trio.sleep_forever()

    @workflow(name="journals_order")
    async def order(ctx: WorkflowContext, item: str, last: str) -> list[Any]:
        """Does a step of each kind that has to do with time, then one last thing."""
        got: list[Any] = [await reserve("flaky " + item, amount=2), await note(item), await fetch(item)]
        await ctx.sleep(0.01)
        with ctx.move_on_after(0.01):
            await ctx.sleep(3600)
        with suppress(EventTimeoutError):
            await ctx.wait_event("never", timeout=0.01)
        if ctx.patched("greet"):
            got.append(await fetch("hello"))
        if last == "event":
            event = await ctx.wait_event("go", subject=ctx.instance_id)
            got.append([event.type, event.source, event.subject, event.data])
        elif last == "sleep":
            await ctx.sleep(LATER, id="long")
        elif last == "watch":
            await watch()
        return [*got, str(ctx.uuid4())]

    @workflow(name="journals_undo")
    async def undo(ctx: WorkflowContext, item: str, wait: bool = False) -> None:
        """Fails, and is rolled back."""
        await reserve(item)
        with suppress(ActivityError):
            await refuse(item)
        await note(item)
        if wait:
            await ctx.wait_event("never")
        raise ValueError(f"no {item} today")

    @workflow(name="journals_retried")
    async def retried(ctx: WorkflowContext) -> list[Any]:
        """Goes on without what fails, and fails in the end."""
        got: list[Any] = []
        with suppress(ActivityError):
            got.append(await fetch("first"))
        got.append(await fetch("second"))
        await ctx.sleep(0.01)
        await ctx.publish("noticeboard", got)
        await ctx.subscribe("journals news", id="subscription")
        got.append((await ctx.wait_event("seen")).data)
        await ctx.unsubscribe("journals news")
        with suppress(ChildWorkflowError):
            got.append(await ctx.run(weak))
        if "first" not in [str(one).lower() for one in got]:
            raise ValueError("the first is missing")
        return got

    @workflow(name="journals_child")
    async def child(ctx: WorkflowContext, item: str, wait: bool) -> str:
        await reserve(item)
        if item == "bad":
            raise ValueError("a bad child")
        if wait:
            await ctx.wait_event("go", subject="children")
        return f"{item} is done"

    @workflow(name="journals_weak")
    async def weak(ctx: WorkflowContext) -> str:
        return await fetch("first")

    @workflow(name="journals_family")
    async def family(ctx: WorkflowContext, last: str) -> list[Any]:
        """Starts children of every fate."""
        got: list[Any] = [await ctx.run(child, "first", False)]
        got.append(await ctx.run(child.options(id=f"{ctx.instance_id}'s own"), "second", False))
        try:
            await ctx.start(child.options(id="order-done"), "third", False)
        except InstanceExistsError as error:
            got.append(str(error))
        try:
            await ctx.run(child, "bad", False)
        except ChildWorkflowError as error:
            got.append([error.error_type, str(error)])
        slow = await ctx.start(child, "slow child", last == "wait")
        if last == "fail":
            await slow.result()
            raise ValueError("the family breaks")
        got.append(await slow.result())
        return got

    @workflow(name="journals_talk")
    async def talk(ctx: WorkflowContext) -> list[Any]:
        """Talks through channels of every mode, and to itself."""
        await ctx.subscribe("journals news")
        await ctx.subscribe("journals jobs", "competing")
        await ctx.subscribe("journals letters", "direct")
        await ctx.subscribe("journals old")
        await ctx.publish("journals news", {"text": "caf\u00e9"}, metadata={"lang": "fr"})
        await ctx.send_to(ctx.instance_id, "journals letters", [1, 2.5, None])
        await ctx.unsubscribe("journals old")
        got: list[Any] = []
        for channel in ("journals news", "journals news", "journals jobs", "journals letters"):
            message = await ctx.receive(channel)
            got.append([message.channel, message.data, sorted(message.metadata), message.sender])
        event = await ctx.wait_event("go", "talk")
        got.append(event.data)
        message = await ctx.receive("journals news")  # it came before that event
        return [*got, message.data]

    @workflow(name="journals_loop")
    async def loop(ctx: WorkflowContext, got: list[Any]) -> list[Any]:
        """Goes on as another instance after each event, with what it has not received."""
        await ctx.subscribe("journals news")
        if not got:
            await ctx.subscribe("journals gone")
            await ctx.unsubscribe("journals gone")
        got.append((await ctx.wait_event("tick", "loop")).data)
        got.append((await ctx.receive("journals news")).data)
        if len(got) < 8:
            ctx.recur(got)
        got.append((await ctx.wait_event("go", "loop")).data)
        got.append((await ctx.wait_event("tick")).data)  # those about something else have been left
        return got

    made = (order, undo, retried, child, weak, family, talk, loop)
    return {each.name.removeprefix("journals_"): each for each in made}


async def begin(open_app: Callable[[], App], open_client: Callable[[], App]) -> None:
    """Bring the instances to where their journals are recorded."""
    defined = define()
    broken.update({"first", "release unlucky", "release unfortunate"})

    def start(app: App, name: str, id: str, *arguments: Any) -> Any:
        return app.start(defined[name].options(id=id), *arguments)

    async with open_app() as app:
        await start(app, "order", "order-done", "tea", "")
        await start(app, "order", "order-waiting", "jam", "event")
        await start(app, "order", "order-done-by-event", "cake", "event")
        await start(app, "order", "order-cancelled", "milk", "watch")
        await start(app, "order", "order-cancel-requested", "honey", "event")
        await start(app, "undo", "undo-done", "ham")
        await start(app, "undo", "undo-left", "unlucky")
        await start(app, "undo", "undo-resumed", "unfortunate")
        await start(app, "retried", "retried-failed")
        await start(app, "retried", "retried-done")
        await start(app, "retried", "retried-again")
        await start(app, "loop", "loop", [])
        await ended(app, "order-done")
        await start(app, "family", "family-done", "")
        await start(app, "family", "family-failed", "fail")
        await start(app, "family", "family-waiting", "wait")
        await start(app, "talk", "talk-waiting")
        await has(app, "order-done-by-event", "wait_timed_out")
        await app.send_event("go", {"number": 1}, subject="order-done-by-event", source="test", id="go-1")
        await has(app, "order-cancelled", "patched")
        await trio.sleep(0.2)
        await app.cancel("order-cancelled", "nobody drinks it")
        for id in ("retried-failed", "retried-done", "retried-again"):
            await has(app, id, "subscribed")
        await app.send_event("seen", "it was seen")
        for id in ("retried-failed", "retried-done", "retried-again"):
            await ended(app, id)
        await has(app, "talk-waiting", "unsubscribed")
        await has(app, "loop", "unsubscribed")
        at = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
        await app.send_event("journals news", "an event", source="test", subject="about", time=at, metadata={"more": 1})
        await app.publish("journals jobs", "a job")
        for number in range(4):
            await app.publish("journals news", f"news {number}")
            await app.send_event("tick", f"a tick for another {number}", subject="another")
            await app.send_event("tick", f"tick {number}", subject="loop")
        await has(app, "loop#4", "message_received")
        await has(app, "talk-waiting", "message_received", 4)
        for id in ("family-done", "family-failed", "order-cancelled", "undo-done", "undo-left", "undo-resumed"):
            await ended(app, id)
        broken.discard("first")
        assert await app.retry("retried-done")
        await ended(app, "retried-done")
        await has(app, "family-waiting", "child_started", 5)
        await start(app, "family", "family-cancelled", "wait")
        await has(app, "family-cancelled", "child_started", 5)
        await start(app, "undo", "undo-cancelled", "slow train", True)
        await has(app, "undo-cancelled", "activity_completed", 2)
        await trio.sleep(0.5)
        await app.cancel("undo-cancelled")
        await app.cancel("family-cancelled", "the family moves")
        await start(app, "undo", "undo-waiting", "slow bus")
        await start(app, "order", "order-sleeping", "bread", "sleep")
        for id in ("undo-cancelled", "undo-waiting"):
            await has(app, id, "attempt_failed")
        await has(app, "order-sleeping", "patched")
    async with open_client() as client:
        await start(client, "order", "order-new", "salt", "")
        assert await client.cancel("order-cancel-requested", "it was stolen")
        assert await client.resume("undo-resumed")
        assert await client.retry("retried-again")


async def finish(app: App) -> dict[str, dict[str, Any]]:
    """Bring all that was begun to its end, in a worker. Returns how each has ended, by instance id."""
    broken.clear()
    await app.send_event("go", {"number": 2}, subject="order-waiting", source="test", id="go-2")
    await app.send_event("go", None, subject="children")
    await app.send_event("go", "goes", subject="talk")
    await app.publish("journals news", "the last news")
    await app.send_event("go", "it goes", subject="loop")
    return {id: await ended(app, id) for id in UNFINISHED}


async def ended(app: App, id: str) -> dict[str, Any]:
    """Wait for the end of an instance, or of the last of its chain. Returns what it has ended with."""
    while True:
        instance = await app.get_instance(id)
        assert instance is not None, id
        assert instance.status is not Status.STUCK, instance.error
        if instance.status is Status.RECURRED:
            stem, _, number = id.partition("#")
            id = f"{stem}#{int(number or 1) + 1}"
        elif instance.status.is_final:
            error = instance.error
            return {
                "status": str(instance.status),
                "output": instance.output,
                "error": None if error is None else [error.error_type, error.message, error.uncompensated],
            }
        await trio.sleep(0.05)


async def has(app: App, id: str, kind: str, times: int = 1) -> None:
    """Wait until an instance is there, and its journal has so many entries of that kind."""
    while True:
        if await app.get_instance(id) is not None:
            kinds = [entry.kind for entry in await app.history(id)]
            if kinds.count(EntryKind(kind)) >= times:
                return
        await trio.sleep(0.02)
