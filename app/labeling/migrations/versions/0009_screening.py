"""Quizzes for candidates: which batches are one, scores of demonstrations, and what candidates say
of their coverage.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    no = sa.text("false")
    op.add_column("batch", sa.Column("screening", sa.Boolean, server_default=no, nullable=False))
    op.create_table(
        "demonstration_score",
        sa.Column("submission_id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("score", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("submission_id", "person_id", name="pk_demonstration_score"),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submission.id"], name="fk_demonstration_score_submission_id"
        ),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name="fk_demonstration_score_person_id"
        ),
    )
    op.create_table(
        "coverage",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("groups", sa.JSON, nullable=False),
        sa.Column("others", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_coverage"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_coverage_person_id"),
    )
    op.create_index("ix_coverage_person_id", "coverage", ["person_id"])
