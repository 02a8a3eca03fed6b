"""Experts rank tasks that labelers differ on."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "adjudication",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("tiers", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("note", sa.Text, nullable=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name="fk_adjudication_task_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_adjudication_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_adjudication"),
    )
    op.create_index("ix_adjudication_task_id", "adjudication", ["task_id"])
