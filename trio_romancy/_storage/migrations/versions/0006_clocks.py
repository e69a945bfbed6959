"""The clocks of workers, so that all processes on a machine have the same time."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations) -> None:
    # Where each step commits by itself, a process that died half way has left some of this.
    if "clock" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("romancy_workers")}:
        comment = "its time minus that of a clock of the machine that cannot be set"
        op.add_column("romancy_workers", sa.Column("clock", sa.BigInteger, comment=comment))
