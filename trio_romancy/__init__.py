"""Durable workflows for trio: ordinary async functions that survive every crash.

The public names of the package are in ``__all__``, and in the submodules ``otel`` and ``testing``.
"""

from ._client.handle import WorkflowHandle
from ._client.watch import InstanceChanges
from ._context.activity import ActivityContext
from ._context.child import ChildHandle
from ._context.current import current_activity
from ._context.workflow import WorkflowContext
from ._definitions.decorators import activity, compensation, workflow
from ._definitions.values import Activity, Compensation, Workflow
from ._observe.log_filter import InstanceFilter
from ._outbox.relay import RelayStatistics
from ._runtime.run.threads import ThreadStatistics
from ._runtime.worker.supervisor import SupervisorStatistics
from ._runtime.worker.worker import WorkerStatistics
from ._settings import Limits, OutboxSettings, WebSettings
from ._storage.journal.journal import JournalStatistics
from ._storage.session import Session
from .app import App, AppStatistics
from .errors import (
    ActivityError,
    ActivityTerminalError,
    ChannelModeConflictError,
    ChildWorkflowError,
    DatabaseError,
    DataProblem,
    DefinitionError,
    EventTimeoutError,
    InstanceExistsError,
    InstanceNotFoundError,
    InvalidDataError,
    InvalidInputError,
    MessageTimeoutError,
    NonDeterminismError,
    OperationIdError,
    PayloadTooLargeError,
    ResultTimeoutError,
    RetryExhaustedError,
    RomancyError,
    SchemaError,
    TerminalError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowStuckError,
    WorkflowTerminatedError,
)
from .hooks import ActivityInfo, BatchInfo, Hooks, LeaseInfo, MessageInfo, TimerInfo, WorkflowInfo
from .model import (
    CancelRequest,
    ChannelMode,
    Entry,
    EntryKind,
    ErrorInfo,
    Instance,
    InstancePage,
    JournalPage,
    Message,
    OutboxEvent,
    OutboxPage,
    OutboxStatus,
    PendingOperation,
    ReceivedEvent,
    SendResult,
    Status,
    WorkerInfo,
)
from .retry import RetryPolicy
from .run_worker import run_worker

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
    "PayloadTooLargeError",
    "PendingOperation",
    "ReceivedEvent",
    "RelayStatistics",
    "ResultTimeoutError",
    "RetryExhaustedError",
    "RetryPolicy",
    "RomancyError",
    "SchemaError",
    "SendResult",
    "Session",
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
