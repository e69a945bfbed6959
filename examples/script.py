"""A plain script without an event loop, which imports rows and can be killed and started again.

    python examples/script.py

The journal is in ``script.db`` in the current directory. Rows that were imported once are not imported again.
"""

from trio_romancy import WorkflowContext, activity, workflow
from trio_romancy.sync import App


@activity
def import_row(row: int) -> int:
    print(f"  row {row}")
    return row * row


@workflow
async def importing(ctx: WorkflowContext, rows: int) -> int:
    return sum([await import_row(row) for row in range(rows)])


with App("script.db") as app:
    handle = app.start(importing.options(id="import-2024"), 3)
    print("the sum:", handle.result())
