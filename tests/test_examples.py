"""Every example prints what it promises, in a fresh directory and again in the same one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest
import sqlalchemy as sa
from nbclient import NotebookClient

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).parent.parent / "examples"

INSTANCE_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def run(directory: Path, name: str, *options: str, exit_code: int = 0) -> str:
    """Run an example in a directory, and return what it printed, with every generated id as ``<id>``."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *options],
        cwd=directory,
        env=os.environ | {"PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (exit_code, "")
    return INSTANCE_ID.sub("<id>", done.stdout)


def text(block: str) -> str:
    return dedent(block).removeprefix("\n")


def count(database: Path, table: str) -> int:
    engine = sa.create_engine(f"sqlite:///{database}")
    try:
        with engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table))) or 0
    finally:
        engine.dispose()


def test_every_example_is_tested_here() -> None:
    tested = {name.removeprefix("test_").split("__")[0] for name in globals() if name.startswith("test_")}
    assert {example.stem for example in EXAMPLES.glob("*.py")} <= tested


def test_fastapi_orders(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "fastapi_orders", "--demo") == text("""
            an order: {'order': 'ORD-1'}
            its approval: 202
            its payment: TXN-ORD-1
            its state: {'status': 'completed', 'payment': 'TXN-ORD-1', 'error': None}
            another order: 404
            """)


def test_starlette_on_trio(tmp_path: Path) -> None:
    assert run(tmp_path, "starlette_on_trio", "--demo") == text("""
        Hello, Ann!
        200
        """)


def test_schedules(tmp_path: Path) -> None:
    assert run(tmp_path, "schedules") == text("""
        Two nights:
          report for Berlin, night of 15 November, 01:30 UTC
          report for New York, night of 15 November, 07:30 UTC
          report for Berlin, night of 16 November, 01:30 UTC
          report for New York, night of 16 November, 07:30 UTC
        What comes next:
          17 November, 01:30 UTC
          18 November, 01:30 UTC
        Now, and those of last week:
          report for Berlin, night of 16 November, 22:13 UTC
          report for Berlin, night of 16 November, 22:13 UTC
          report for Berlin, night of 16 November, 22:13 UTC
          backfilled: 2
        Imports that take twelve minutes:
          prices: the run of 22:20 is skipped, because the last one goes on
          prices: the run of 22:25 is skipped, because the last one goes on
        """)


def test_rate_limits(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "rate_limits") == text("""
            paid: 60
            payments of ada at once: 1
            payments of grace at once: 1
            receipts keep their distance: True
            """)


def test_script(tmp_path: Path) -> None:
    rows = "".join(f"  row {row}\n" for row in range(3))
    assert run(tmp_path, "script") == f"{rows}the sum: 5\n"
    assert run(tmp_path, "script") == "the sum: 5\n"


def test_the_notebook_shows_what_it_promises(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]  # no types
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output["data"]["text/plain"] for cell in notebook.cells for output in cell.get("outputs", ())]
    assert shown[0] == "[0, 1, 4, 9]"
    assert shown[1].split() == ["['activity_completed',", *["'activity_completed',"] * 3, "'workflow_completed']"]


def test_order_processing(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "order_processing") == text("""
            Starting order processing workflow...

            📦 Reserving inventory for ORD-12345: $109.97
            💳 Processing payment for ORD-12345: $109.97
            🚚 Shipping ORD-12345 to Shibuya, Japan

            ✅ Workflow completed: <id>
            📊 The order:
               - Order ID: ORD-12345
               - Total: $109.97
               - Tracking: TRACK-ORD-12345
            """)
    assert count(tmp_path / "orders.db", "romancy_instances") == 2


def test_order_processing__rolls_back_in_reverse_order_when_shipping_fails(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "order_processing", "--fail-shipping", exit_code=1) == text("""
            Starting order processing workflow...

            📦 Reserving inventory for ORD-12345: $109.97
            💳 Processing payment for ORD-12345: $109.97
            🚚 Shipping ORD-12345 to Shibuya, Japan
            💥 Error: shipping service unavailable

            ❌ Refunding payment for ORD-12345: $109.97
            ❌ Cancelling inventory reservation for ORD-12345

            Error: instance '<id>' failed: trio_romancy.ActivityTerminalError: activity 'ship_order:1' failed \
and must not be retried: trio_romancy.TerminalError: shipping service unavailable
            """)


def test_child_workflows(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "child_workflows") == text("""
            What is done:
              order: reserving ORD-1
                payment: holding $109.97 of ORD-1
                payment: capturing it for ORD-1
                shipping: packing ORD-1
                shipping: calling the carrier for ORD-1
            The result: TXN-ORD-1, TRACK-ORD-1
            The family:
              order: completed (done)
                payment: completed
                shipping: completed
            """)
    assert count(tmp_path / "family.db", "romancy_instances") == 6


def test_child_workflows__rolls_back_across_parent_and_children_in_reverse_order(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "child_workflows", "--fail-shipping", exit_code=1) == text("""
            What is done:
              order: reserving ORD-1
                payment: holding $109.97 of ORD-1
                payment: capturing it for ORD-1
                shipping: packing ORD-1
                shipping: calling the carrier for ORD-1
                shipping: unpacking ORD-1
                payment: refunding TXN-ORD-1
                payment: releasing $109.97 of ORD-1
              order: cancelling the reservation of ORD-1
            The error: trio_romancy.ChildWorkflowError: child '<id>/shipping:1' of workflow 'shipping' failed: \
trio_romancy.ActivityTerminalError: activity 'call_carrier:1' failed and must not be retried: \
trio_romancy.TerminalError: the carrier is on strike
            The family:
              order: failed (waiting for the carrier)
                payment: cancelled
                shipping: failed
            """)


def test_crash_recovery(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "crash_recovery") == text("""
            The first process takes the order, and the carrier does not answer:
                charging $109.97 for ORD-12345
                asking the carrier to ship ORD-12345
            It is killed. The payment is recorded, the shipment is not.

            The second process finds the order unfinished, and continues where it stopped:
                asking the carrier to ship ORD-12345
                paid with TXN-ORD-12345, shipped with TRACK-ORD-12345

            Payments that happened, over both processes: 1
            """)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_activities(tmp_path: Path) -> None:
    for _ in range(2):
        lines = run(tmp_path, "concurrent_activities").splitlines()
        # What runs side by side is recorded in any order.
        fetched, shipped = lines[4:6], lines[11:15]
        del lines[11:15], lines[4:6]
        assert lines == [
            "results, in the order of the input:",
            "  <page of slow.example.org>",
            "  <page of fast.example.org>",
            "journal, in the order in which they came:",
            "  the workflow",
            "results, in the order of the input:",
            "  1.5 kg to eu",
            "  1.5 kg to us",
            "journal, in the order in which they came:",
            "  the workflow",
        ]
        assert sorted(fetched) == ["  fetch:fast.example.org", "  fetch:slow.example.org"]
        for region in ("eu", "us"):
            steps = [f"  {region}/pack:1", f"  {region}/ship:1"]
            assert [step for step in shipped if step in steps] == steps


def test_retry_policies(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "retry_policies") == text("""
            Activities that recover:
              fixed:1, attempt 1
              fixed:1, attempt 2
              fixed:1, attempt 3
              exponential:1, attempt 1
              exponential:1, attempt 2
              exponential:1, attempt 3
              exponential:1, attempt 4
              by_default:1, attempt 1
              by_default:1, attempt 2
              as_the_app_says:1, attempt 1
              as_the_app_says:1, attempt 2
              as_the_app_says:2, attempt 1
              as_the_app_says:2, attempt 2
              as_the_app_says:2, attempt 3
              as_the_app_says:2, attempt 4
            Activities that do not:
              fixed:1, attempt 1
              fixed:1, attempt 2
              fixed:1, attempt 3
              only_once:1, attempt 1
              as_the_app_says:1, attempt 1
              as_the_app_says:1, attempt 2
              validate_order:1, attempt 1
              read_account:1, attempt 1
            What the workflow saw of them:
              RetryExhaustedError: activity 'fixed:1' failed 3 times, its retry policy allows no more: \
ConnectionError: the service is down
              RetryExhaustedError: activity 'only_once:1' failed once, its retry policy allows no more: \
ConnectionError: the service is down
              RetryExhaustedError: activity 'as_the_app_says:1' failed 2 times, its retry policy allows no more: \
ConnectionError: the service is down
              ActivityTerminalError: activity 'validate_order:1' failed and must not be retried: \
trio_romancy.TerminalError: order ORD-1 not found
              ActivityTerminalError: activity 'read_account:1' failed and must not be retried: \
PermissionError: account ACC-1 is closed
            """)


def test_user_registration(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "user_registration") == text("""
            Creating user user_123 in database
            Sending welcome email to user@example.com
            Creating profile for ACC-user_123
            Workflow started: <id>
            user_123 has account ACC-user_123: completed
            The journal:
              create_database_record:1  activity_completed
              send_welcome_email:1      activity_completed
              create_user_profile:1     activity_completed
              the workflow              workflow_completed
            """)
    assert count(tmp_path / "users.db", "romancy_instances") == 2


def test_own_tables(tmp_path: Path) -> None:
    for runs in (1, 2):
        assert run(tmp_path, "own_tables") == text("""
            attempt 1 of create_order:1: rows before: 0, after: 1
            attempt 2 of create_order:1: rows before: 0, after: 1
            PROD-1 is in the order already

            the journal:
              create_order:1  attempt_failed
              create_order:1  activity_completed
              add_lines:1     activity_completed
              the workflow    workflow_completed

            your tables:
              orders       complete
              order_lines  PROD-1
              order_lines  PROD-2
            """)
        assert count(tmp_path / "shop.db", "orders") == runs
        assert count(tmp_path / "shop.db", "order_lines") == 2 * runs


def test_event_waiting(tmp_path: Path) -> None:
    for runs in (1, 2):
        assert run(tmp_path, "event_waiting") == text("""
            REQ-1:
              manager, may we buy a laptop for $1,500?
              ordering a laptop
              approved by the manager: ORDER-REQ-1
            REQ-2:
              manager, may we buy a golden pen for $4,000?
              rejected by the manager
            REQ-3:
              manager, may we buy a milling machine for $25,000?
              manager, there is still the milling machine; we ask the next one now
              director, may we buy a milling machine for $25,000?
              ordering a milling machine
              approved by the director: ORDER-REQ-3
            REQ-4:
              manager, may we buy a yacht for $2,000,000?
              manager, there is still the yacht; we ask the next one now
              director, may we buy a yacht for $2,000,000?
              director, there is still the yacht; we ask the next one now
              expired: no answer came
            """)
        assert count(tmp_path / "approvals.db", "romancy_messages") == 3 * runs
        assert count(tmp_path / "approvals.db", "romancy_waits") == 0


def test_chat_channels(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "chat_channels") == text("""
            ada has heard:
              host: welcome
              host: ada, how are you?
              ada: fine, thanks
              host: grace, how are you?
              grace: fine, thanks
            grace has heard:
              host: welcome
              host: ada, how are you?
              ada: fine, thanks
              host: grace, how are you?
              grace: fine, thanks
            translated:
              der alte Mann
              der Mann hat einen Hund
            words that the translators have done:
              8
            """)
        assert count(tmp_path / "chat.db", "romancy_waits") == 0


def test_timers(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, "timers") == text("""
            A trial:
              day 0: ada, your trial has begun
              day 29: ada, your trial ends tomorrow
              day 30: ada, your trial has ended
            Two auctions:
              the vase goes for $50
              no bids for the stamp
            Two invoices:
              day 40: INV-1, reminder 1
              day 40: INV-2, reminder 1
              INV-1 was paid, reminders: 1
              day 47: INV-2, reminder 2
              day 54: INV-2, reminder 3
              INV-2 was given up
            Many that wait:
              just started: 200 in memory
              20 seconds later: 0 in memory
              day 154: all have ended
            """)
    assert list(tmp_path.iterdir()) == []


def test_cloudevents_server(tmp_path: Path) -> None:
    for _ in range(2):
        printed = run(tmp_path, "cloudevents_server", "--demo")
        # The workflow and its clients run side by side. Whether it waits when the payment comes makes no difference.
        masked = re.sub(
            r"waiting: [01]", "waiting: ?", re.sub(r"\b[0-9a-f]{8}(?=-\d|\s|$)|\b[0-9a-f]{64}\b", "<hex>", printed)
        )
        assert sorted(masked.splitlines()) == sorted(
            text("""
              ORD-<hex> waits for $59.98
            an order: 202
              event_id: <hex>-1
              instance_id: event-<hex>
              waiting: ?
              duplicate: False
            its payment: 202
              event_id: <hex>-2
              instance_id: None
              waiting: ?
              duplicate: False
              ORD-<hex> is paid: $59.98 from /bank
              shipping ORD-<hex>
              the workflow has ended: TRACK-ORD-<hex>
            the payment again: 202
              event_id: <hex>-2
              instance_id: None
              waiting: ?
              duplicate: True
            an invalid order: 400
              error: workflow 'order_received' does not take this input: $.amount: expected float, got 'a lot'
              error_type: InvalidInputError
              retryable: False
            its health: 200
              status: ready
            an order without the token: 401
              error: this needs the header Authorization: Bearer, with the token of this app
              error_type: Unauthorized
              retryable: False
            """).splitlines()
        )
    assert count(tmp_path / "cloudevents.db", "romancy_instances") == 2


def test_outbox(tmp_path: Path) -> None:
    for runs in (1, 2):
        assert run(tmp_path, "outbox") == text("""
            The broker:
              away
              away
              order.placed: {'order_id': 'ORD-1', 'attempt': 2}
              order.packed: {'order_id': 'ORD-1'}
              order.packed: {'order_id': 'ORD-1'}, again
              order.shipped: {'order_id': 'ORD-1', 'weight': 1.5}
              order.archived is refused

            The outbox:
              order.placed    sent     attempts: 3
              order.packed    sent     attempts: 2
              order.shipped   sent     attempts: 1
              order.archived  invalid  attempts: 1
                the broker answered 400: there is no archive here

            The broker has learnt to archive, and the event is retried:
              order.archived: None
            """)
        assert count(tmp_path / "outbox.db", "romancy_outbox") == 4 * runs


def test_observability(tmp_path: Path) -> None:
    assert run(tmp_path, "observability") == text("""
        order-1 started
              log of order-1, None: an order has come
              log of order-1, reserve:1: taken from the shelf
          ✓ reserve, attempt 1
          ↻ charge, attempt 1: the bank does not answer
              log of order-1, charge:1: charged
          ✓ charge, attempt 2
          ✗ ship, attempt 1: the carrier is on strike
              log of order-1, charge:1/compensation: money back
          ↩ refund, attempt 1
              log of order-1, reserve:1/compensation: back on the shelf
          ↩ cancel_reservation, attempt 1
        order-1 failed: activity 'ship:1' failed and must not be retried: trio_romancy.TerminalError: \
the carrier is on strike
        attempts that succeeded: 2, that failed: 2
        """)
    assert list(tmp_path.iterdir()) == []
