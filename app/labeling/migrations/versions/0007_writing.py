"""Batches in which labelers write: answers, edits, dialogues, red teaming, and the suggestions that
they saw.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "batch", sa.Column("kind", sa.String(16), server_default="ranking", nullable=False)
    )
    op.add_column("batch", sa.Column("endpoint", sa.JSON(none_as_null=True)))
    op.add_column("task", sa.Column("brief", sa.Text))
    op.create_table(
        "suggestion",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("assignment_id", sa.Integer, nullable=False),
        sa.Column("context", sa.String(64), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("generator", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_suggestion"),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignment.id"], name="fk_suggestion_assignment_id"
        ),
        sa.UniqueConstraint(
            "assignment_id",
            "context",
            "round",
            "position",
            name="uq_suggestion_assignment_id_context_round_position",
        ),
    )
    op.create_table(
        "written",
        sa.Column("submission_id", sa.Integer, nullable=False),
        sa.Column("sent", sa.JSON, nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("turns", sa.JSON, nullable=False),
        sa.Column("edit_distance", sa.Integer),
        sa.PrimaryKeyConstraint("submission_id", name="pk_written"),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submission.id"], name="fk_written_submission_id"
        ),
    )
