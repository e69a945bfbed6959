"""Durable workflows for trio: ordinary async functions that survive every crash.

The public names of the package are in ``__all__``, and in the submodules ``otel`` and ``testing``.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "ActivityContext",
    "ActivityError",
    "ActivityInfo",
    "ActivityTerminalError",
    "App",
    "AppStatistics",
    "BatchInfo",
    "CancelRequest",
    "ChannelMode",
    "ChannelModeConflictError",
    "ChildHandle",
    "ChildWorkflowError",
    "Compensation",
    "DataProblem",
    "DatabaseError",
    "DefinitionError",
    "Entry",
    "EntryKind",
    "ErrorInfo",
    "EventTimeoutError",
    "Hooks",
    "Instance",
    "InstanceChanges",
    "InstanceExistsError",
    "InstanceFilter",
    "InstanceNotFoundError",
    "InstancePage",
    "InvalidDataError",
    "InvalidInputError",
    "JournalPage",
    "JournalStatistics",
    "LeaseInfo",
    "Limit",
    "LimitInfo",
    "Limits",
    "Message",
    "MessageInfo",
    "MessageTimeoutError",
    "NonDeterminismError",
    "OperationIdError",
    "OutboxEvent",
    "OutboxPage",
    "OutboxSettings",
    "OutboxStatus",
    "Overlap",
    "PayloadTooLargeError",
    "PendingOperation",
    "Rate",
    "ReceivedEvent",
    "RelayStatistics",
    "ResultTimeoutError",
    "RetryExhaustedError",
    "RetryPolicy",
    "RomancyError",
    "Schedule",
    "ScheduleInfo",
    "ScheduleNotFoundError",
    "ScheduledRunInfo",
    "Schedules",
    "SchemaError",
    "SendResult",
    "Session",
    "SkipReason",
    "SkippedOccurrence",
    "Status",
    "SupervisorStatistics",
    "TerminalError",
    "ThreadStatistics",
    "TimerInfo",
    "WebSettings",
    "WorkerInfo",
    "WorkerStatistics",
    "Workflow",
    "WorkflowCancelledError",
    "WorkflowContext",
    "WorkflowError",
    "WorkflowFailedError",
    "WorkflowHandle",
    "WorkflowInfo",
    "WorkflowStuckError",
    "WorkflowTerminatedError",
    "activity",
    "compensation",
    "current_activity",
    "run_worker",
    "workflow",
]

if TYPE_CHECKING:
    from ._public import *
else:

    def __getattr__(name: str) -> object:
        """Import all public names when one of them is used. The command line needs few of them, and starts sooner."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _public

        globals().update((each, getattr(_public, each)) for each in __all__)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
