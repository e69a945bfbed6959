"""Which instances a dead worker had begun to run."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations) -> None:
    # Where each step commits by itself, a process that died half way has left some of this.
    if "has_begun" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("romancy_instances")}:
        comment = "whether an attempt has begun since; NULL: that is not recorded"
        column = sa.Column("has_begun", sa.Boolean, comment=comment)
        op.add_column("romancy_instances", column)
