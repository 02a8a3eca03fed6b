"""Gold tasks, edits, late extras, merged copies, instructions marked as read, and the
chat's votes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "submission",
        sa.Column("extra", sa.Boolean, server_default=sa.text("false"), nullable=False),
    )
    op.add_column("submission", sa.Column("comment", sa.Text))
    op.add_column("task_response", sa.Column("copy_of", sa.Integer))
    op.add_column("task", sa.Column("gold_ranks", sa.JSON))
    op.add_column("batch", sa.Column("gold_every", sa.Integer, server_default="0", nullable=False))
    op.add_column(
        "batch", sa.Column("edit_minutes", sa.Double, server_default="1440", nullable=False)
    )
    op.create_table(
        "conversation",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_conversation_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_conversation"),
    )
    op.create_index("ix_conversation_person_id", "conversation", ["person_id"])
    op.create_table(
        "instruction_read",
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("instruction_set_id", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["instruction_set_id"],
            ["instruction_set.id"],
            name="fk_instruction_read_instruction_set_id",
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_instruction_read_person_id"),
        sa.PrimaryKeyConstraint("person_id", "instruction_set_id", name="pk_instruction_read"),
    )
    op.create_table(
        "vote",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("conversation_id", sa.Integer, nullable=False),
        sa.Column("cohort", sa.String(16), nullable=False),
        sa.Column("left_text", sa.Text, nullable=False),
        sa.Column("right_text", sa.Text, nullable=False),
        sa.Column("left_generator", sa.Text),
        sa.Column("right_generator", sa.Text),
        sa.Column("choice", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_vote_person_id"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name="fk_vote_conversation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_vote"),
    )
    op.create_table(
        "message",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("conversation_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("generator", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name="fk_message_conversation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_message"),
        sa.UniqueConstraint(
            "conversation_id", "position", name="uq_message_conversation_id_position"
        ),
    )
    op.create_table(
        "reaction",
        sa.Column("message_id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("value", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name="fk_reaction_message_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_reaction_person_id"),
        sa.PrimaryKeyConstraint("message_id", "person_id", name="pk_reaction"),
    )
    # Whoever answered under a version had it on the page: count it as read, so nobody is asked
    # again.
    op.execute(
        "INSERT INTO instruction_read (person_id, instruction_set_id, at) "
        "SELECT a.person_id, s.instruction_set_id, MIN(s.created_at) FROM submission s "
        "JOIN assignment a ON a.id = s.assignment_id GROUP BY a.person_id, s.instruction_set_id"
    )
