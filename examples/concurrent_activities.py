"""Activities that run at the same time, in trio's own nurseries.

    python examples/concurrent_activities.py

A step that follows another gets its id by counting: ``fetch:1``, ``fetch:2``. Tasks that run side by side take turns
in no fixed order, so after a crash the count could give the id of one step to another. There are two ways to name them:

* ``fetch.options(id=...)`` names one call,
* ``with ctx.branch(...)`` gives everything that one task does counters of its own.
"""

import trio
from attrs import frozen

from trio_romancy import App, WorkflowContext, activity, workflow


@activity
async def fetch(url: str) -> str:
    await trio.sleep(0.5 if "slow" in url else 0.1)
    return f"<page of {url}>"


@workflow
async def fetch_all(ctx: WorkflowContext, urls: list[str]) -> list[str]:
    pages = [""] * len(urls)

    async def fetch_one(index: int, url: str) -> None:
        pages[index] = await fetch.options(id=f"fetch:{url}")(url)

    async with trio.open_nursery() as nursery:
        for index, url in enumerate(urls):
            nursery.start_soon(fetch_one, index, url)
    return pages  # in the order of the URLs, whichever page came first


@frozen
class Parcel:
    region: str
    weight: float


@activity
async def pack(region: str) -> Parcel:
    await trio.sleep(0.1)
    return Parcel(region, weight=1.5)


@activity
async def ship(parcel: Parcel) -> str:
    await trio.sleep(0.1)
    return f"{parcel.weight} kg to {parcel.region}"


@workflow
async def ship_everywhere(ctx: WorkflowContext, regions: list[str]) -> list[str]:
    shipped: dict[str, str] = {}

    async def ship_to(region: str) -> None:
        with ctx.branch(region):
            parcel = await pack(region)
            shipped[region] = await ship(parcel)

    async with trio.open_nursery() as nursery:
        for region in regions:
            nursery.start_soon(ship_to, region)
    return [shipped[region] for region in regions]


async def main() -> None:
    async with App("concurrent.db") as app:
        # Instances, too, run at the same time: both are started before the first is awaited.
        fetching = await app.start(fetch_all, ["slow.example.org", "fast.example.org"])
        shipping = await app.start(ship_everywhere, ["eu", "us"])

        for handle in (fetching, shipping):
            print("results, in the order of the input:")
            for line in await handle.result():
                print(f"  {line}")
            print("journal, in the order in which they came:")
            for entry in await app.history(handle.instance_id):
                print(f"  {entry.operation_id or 'the workflow'}")


if __name__ == "__main__":
    trio.run(main)
