"""A process that does nothing but run a worker."""

from __future__ import annotations

import gc
import logging
import signal

import trio

from .app import App

_logger = logging.getLogger("trio_romancy.worker")

_STOP = (signal.SIGTERM, signal.SIGINT)


async def run_worker(app: App, *, task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED) -> None:
    """Run an app's worker until the process is told to stop, by SIGTERM or SIGINT (Ctrl-C).

    The first signal stops it in order, as a cancellation does: nothing new is begun, what only waits is handed to the
    other workers at once, and each activity that runs goes on to its recorded outcome, for up to ``shutdown_timeout``.
    So a rolling restart repeats no activity that ends within that time. A second signal ends the waiting: what still
    runs then is handed over as it is, and runs again elsewhere.

    It is a whole program, as in ``trio.run(run_worker, App("postgres://..."))``, or a task in one: started with
    ``nursery.start`` it gives the app, which works by then. It is to be called in the main thread.

    As a whole program it takes what there is once it works, such as all that was imported, from Python's garbage
    collector (:func:`gc.freeze`), which would look at it again and again.

    Raises:
      DatabaseError: if the database cannot be used when it starts.
    """
    working = trio.CancelScope()
    with trio.open_signal_receiver(*_STOP) as signals:
        # Signals are heard from the start, and also while running activities are waited for after a cancellation.
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
                                gc.collect()  # what is garbage now would be kept for ever
                                gc.freeze()
                            _logger.info("worker %s has begun", app.worker_id)
                            try:
                                await trio.sleep_forever()
                            finally:
                                is_stopping = True
                finally:
                    listening.cancel()
        except BaseExceptionGroup as group:
            (error,) = group.exceptions  # the app's, or a cancellation: nothing else can fail
            raise error from error.__cause__
    _logger.info("worker %s has ended", app.worker_id)


def _is_the_program() -> bool:
    """Whether the current task is the main one of ``trio.run``. Others live in a process that is somebody else's."""
    nursery = trio.lowlevel.current_task().parent_nursery
    return nursery is not None and nursery.parent_task is trio.lowlevel.current_root_task()
