"""Your own tables in the database of the workflows: a row and the record of its activity commit together or not at all.

    python examples/own_tables.py

So a row is written exactly once, whatever crashes when. ``current_activity().session`` takes SQLAlchemy's ORM objects
and Core statements alike. There is no commit to call: the session commits when the activity returns, together with its
journal entry, and rolls back if the activity raises. The tables are in ``shop.db`` in the current directory.
"""

import sqlalchemy as sa
import trio
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from trio_romancy import App, RetryPolicy, WorkflowContext, activity, current_activity, workflow


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    order_id: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    status: Mapped[str] = mapped_column(sa.String(20))


order_lines = sa.Table(
    "order_lines",
    Base.metadata,
    sa.Column("order_id", sa.ForeignKey(Order.order_id), primary_key=True),
    sa.Column("product_id", sa.String(255), primary_key=True),
)


@activity(retry=RetryPolicy.fixed(2, 0.1))
async def create_order(order_id: str) -> None:
    this = current_activity()
    count = sa.select(sa.func.count()).where(Order.order_id == order_id)

    before = await this.session.scalar(count)
    await this.session.add(Order(order_id=order_id, status="new"))
    after = await this.session.scalar(count)
    print(f"attempt {this.attempt} of {this.activity_id}: rows before: {before}, after: {after}")
    if this.attempt == 1:
        raise ConnectionError("the row of this attempt is rolled back")


@activity
async def add_lines(order_id: str, product_ids: list[str]) -> None:
    session = current_activity().session
    for product_id in product_ids:
        line = {"order_id": order_id, "product_id": product_id}
        try:
            async with session.begin_nested():  # a savepoint: if the block raises, only the block is rolled back
                await session.execute(sa.insert(order_lines), line)
        except IntegrityError:
            print(f"{product_id} is in the order already")

    order = await session.get(Order, order_id)
    assert order is not None
    order.status = "complete"


@workflow
async def take_order(ctx: WorkflowContext, product_ids: list[str]) -> str:
    order_id = ctx.instance_id
    await create_order(order_id)
    await add_lines(order_id, product_ids)
    return order_id


async def run_workflow() -> str:
    async with App("shop.db") as app:
        handle = await app.start(take_order, ["PROD-1", "PROD-2", "PROD-1"])
        order_id = await handle.result()
        print("\nthe journal:")
        for entry in await app.history(handle.instance_id):
            print(f"  {entry.operation_id or 'the workflow':14}  {entry.kind}")
    return order_id


def main() -> None:
    engine = sa.create_engine(
        "sqlite:///shop.db"
    )  # creates the tables and reads them; the app has an engine of its own
    Base.metadata.create_all(engine)

    order_id = trio.run(run_workflow)

    print("\nyour tables:")
    with Session(engine) as session:
        for order in session.scalars(sa.select(Order).where(Order.order_id == order_id)):
            print(f"  orders       {order.status}")
        for product_id in session.scalars(
            sa.select(order_lines.c.product_id).where(order_lines.c.order_id == order_id).order_by("product_id")
        ):
            print(f"  order_lines  {product_id}")


if __name__ == "__main__":
    main()
