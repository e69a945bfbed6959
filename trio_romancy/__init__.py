"""Durable workflows for trio."""

from .app import App, AppStatistics
from .context import ActivityContext, WorkflowContext, current_activity
from .define import Activity, Compensation, Workflow, activity, compensation, workflow
from .errors import (
    ActivityError,
    ActivityTerminalError,
    DatabaseError,
    DefinitionError,
    InstanceExistsError,
    InstanceNotFoundError,
    InvalidDataError,
    InvalidInputError,
    NonDeterminismError,
    OperationIdError,
    PayloadTooLargeError,
    Problem,
    RetryExhaustedError,
    RomancyError,
    SchemaError,
    TerminalError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowStuckError,
)
from .handle import WorkflowHandle
from .model import Entry, ErrorInfo, Instance, Kind, Status
from .retry import RetryPolicy
from .storage.session import Session

__all__ = [
    "Activity",
    "ActivityContext",
    "ActivityError",
    "ActivityTerminalError",
    "App",
    "AppStatistics",
    "Compensation",
    "DatabaseError",
    "DefinitionError",
    "Entry",
    "ErrorInfo",
    "Instance",
    "InstanceExistsError",
    "InstanceNotFoundError",
    "InvalidDataError",
    "InvalidInputError",
    "Kind",
    "NonDeterminismError",
    "OperationIdError",
    "PayloadTooLargeError",
    "Problem",
    "RetryExhaustedError",
    "RetryPolicy",
    "RomancyError",
    "SchemaError",
    "Session",
    "Status",
    "TerminalError",
    "Workflow",
    "WorkflowCancelledError",
    "WorkflowContext",
    "WorkflowError",
    "WorkflowFailedError",
    "WorkflowHandle",
    "WorkflowStuckError",
    "activity",
    "compensation",
    "current_activity",
    "workflow",
]
