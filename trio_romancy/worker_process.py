"""Runs a worker as a whole process."""

from __future__ import annotations

import gc
import logging
import signal

import trio

from .app import App

_logger = logging.getLogger("trio_romancy.worker")

_STOP = (signal.SIGTERM, signal.SIGINT)


async def run_worker(app: App, *, task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the worker of an app until the process gets SIGTERM or SIGINT (Ctrl-C).

    The first signal stops the worker in order, as a cancellation does: no new attempt begins, instances that only wait
    are handed to other workers at once, and running activities go on to their recorded outcome, for up to
    ``shutdown_timeout``. So a rolling restart repeats no activity that ends within that time. A second signal ends the
    wait: activities that still run are abandoned, and run again elsewhere.

    It is a whole program, as in ``trio.run(run_worker, App("postgres://..."))``, or one task of a program. Started with
    ``nursery.start`` it returns the app once that works. It must be called in the main thread.

    As a whole program it exempts all objects that exist once the app works, such as imported modules, from Python's
    garbage collector (:func:`gc.freeze`), which would examine them again and again.

    Args:
      app: an app that has not been used.

    Raises:
      DatabaseError: if the database cannot be used at the start.
    """
    working = trio.CancelScope()
    with trio.open_signal_receiver(*_STOP) as signals:
        # Shielded, so that signals also arrive while the app waits for running activities after a cancellation.
        listening = trio.CancelScope(shield=True)

        async def listen() -> None:
            with listening:
                async for number in signals:
                    name = signal.Signals(number).name
                    if working.cancel_called or is_stopping:
                        _logger.warning("worker %s does not wait any more: %s", app.worker_id, name)
                        app.hurry()
                    else:
                        _logger.info("worker %s stops: %s", app.worker_id, name)
                        working.cancel()

        is_stopping = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                try:
                    with working:
                        async with app:
                            task_status.started(app)
                            if _is_the_program():
                                gc.collect()  # garbage would be kept for ever
                                gc.freeze()
                            _logger.info("worker %s has begun", app.worker_id)
                            try:
                                await trio.sleep_forever()
                            finally:
                                is_stopping = True
                finally:
                    listening.cancel()
        except BaseExceptionGroup as group:
            (error,) = group.exceptions  # from the app, or a cancellation: nothing else can fail
            raise error from error.__cause__
    _logger.info("worker %s has ended", app.worker_id)


def _is_the_program() -> bool:
    """Tell whether the current task is the main task of ``trio.run``, so that the process belongs to it."""
    nursery = trio.lowlevel.current_task().parent_nursery
    return nursery is not None and nursery.parent_task is trio.lowlevel.current_root_task()
