"""The first schema: people, batches of tasks, answers, exports."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "form_schema",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_form_schema"),
        sa.UniqueConstraint("name", "version", name="uq_form_schema_name_version"),
    )
    op.create_table(
        "instruction_set",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instruction_set"),
        sa.UniqueConstraint("name", "version", name="uq_instruction_set_name_version"),
    )
    op.create_table(
        "login_failure",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("source", sa.String(128), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_login_failure"),
    )
    op.create_index("ix_login_failure_source", "login_failure", ["source"])
    op.create_table(
        "person",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("handle", sa.String(64), nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("cohort", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("disabled_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("handle", name="uq_person_handle"),
    )
    op.create_table(
        "prompt",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("text_hash", sa.String(64), nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("asked_by", sa.Text),
        sa.Column("use_case", sa.Text),
        sa.Column("language", sa.Text),
        sa.Column("split", sa.Text),
        sa.Column("record", sa.Text),
        sa.Column("meta", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prompt"),
        sa.UniqueConstraint("text_hash", name="uq_prompt_text_hash"),
    )
    op.create_table(
        "site_setting",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_site_setting"),
    )
    op.create_table(
        "batch",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("cohorts", sa.JSON, nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("lease_minutes", sa.Double, nullable=False),
        sa.Column("ties_allowed", sa.Boolean, nullable=False),
        sa.Column("shuffle_seed", sa.Integer, nullable=False),
        sa.Column("instruction_set_id", sa.Integer, nullable=False),
        sa.Column("form_schema_id", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["form_schema_id"], ["form_schema.id"], name="fk_batch_form_schema_id"
        ),
        sa.ForeignKeyConstraint(
            ["instruction_set_id"], ["instruction_set.id"], name="fk_batch_instruction_set_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_batch"),
        sa.UniqueConstraint("name", name="uq_batch_name"),
    )
    op.create_table(
        "event_log",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("person_id", sa.Integer),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_event_log_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_event_log"),
    )
    op.create_index("ix_event_log_kind", "event_log", ["kind"])
    op.create_table(
        "export",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("filter", sa.JSON, nullable=False),
        sa.Column("n_rows", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("created_by", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["person.id"], name="fk_export_created_by"),
        sa.PrimaryKeyConstraint("id", name="pk_export"),
    )
    op.create_table(
        "invite",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("cohort", sa.String(16), nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("used_by", sa.Integer),
        sa.ForeignKeyConstraint(["used_by"], ["person.id"], name="fk_invite_used_by"),
        sa.PrimaryKeyConstraint("id", name="pk_invite"),
        sa.UniqueConstraint("token_hash", name="uq_invite_token_hash"),
    )
    op.create_table(
        "login_session",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_login_session_person_id"),
        sa.PrimaryKeyConstraint("token_hash", name="pk_login_session"),
    )
    op.create_table(
        "response",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("prompt_id", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("generator", sa.Text),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("is_demonstration", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name="fk_response_prompt_id"),
        sa.PrimaryKeyConstraint("id", name="pk_response"),
    )
    op.create_index("ix_response_prompt_id", "response", ["prompt_id"])
    op.create_table(
        "task",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("batch_id", sa.Integer, nullable=False),
        sa.Column("prompt_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("need", sa.Integer, nullable=False),
        sa.Column("n_open", sa.Integer, nullable=False),
        sa.Column("n_done", sa.Integer, nullable=False),
        sa.CheckConstraint("n_open >= 0 AND n_done >= 0 AND n_open + n_done <= need", name="room"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_task_batch_id"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name="fk_task_prompt_id"),
        sa.PrimaryKeyConstraint("id", name="pk_task"),
    )
    op.create_index("ix_task_batch_id", "task", ["batch_id"])
    op.create_index(
        "ix_task_room",
        "task",
        ["batch_id", "position"],
        sqlite_where=sa.text("n_open + n_done < need"),
        postgresql_where=sa.text("n_open + n_done < need"),
    )
    op.create_table(
        "assignment",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("cohort", sa.String(16), nullable=False),
        sa.Column("display_order", sa.JSON, nullable=False),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("claimed_at", sa.Double, nullable=False),
        sa.Column("closed_at", sa.Double),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_assignment_person_id"),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name="fk_assignment_task_id"),
        sa.PrimaryKeyConstraint("id", name="pk_assignment"),
        sa.UniqueConstraint("task_id", "person_id", name="uq_assignment_task_id_person_id"),
    )
    op.create_index("ix_assignment_lease", "assignment", ["state", "lease_until"])
    op.create_index("ix_assignment_person_id_closed_at", "assignment", ["person_id", "closed_at"])
    op.create_index(
        "uq_assignment_one_open",
        "assignment",
        ["person_id"],
        unique=True,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "task_response",
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("response_id", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["response_id"], ["response.id"], name="fk_task_response_response_id"
        ),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name="fk_task_response_task_id"),
        sa.PrimaryKeyConstraint("task_id", "position", name="pk_task_response"),
    )
    op.create_table(
        "draft",
        sa.Column("assignment_id", sa.Integer, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("saved_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignment.id"], name="fk_draft_assignment_id"
        ),
        sa.PrimaryKeyConstraint("assignment_id", name="pk_draft"),
    )
    op.create_table(
        "skip",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("assignment_id", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignment.id"], name="fk_skip_assignment_id"),
        sa.PrimaryKeyConstraint("id", name="pk_skip"),
        sa.UniqueConstraint("assignment_id", name="uq_skip_assignment_id"),
    )
    op.create_table(
        "submission",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("assignment_id", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("idempotency_key", sa.String(64), nullable=False),
        sa.Column("tiers", sa.JSON, nullable=False),
        sa.Column("active_seconds", sa.Double, nullable=False),
        sa.Column("instruction_set_id", sa.Integer, nullable=False),
        sa.Column("form_schema_id", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignment.id"], name="fk_submission_assignment_id"
        ),
        sa.ForeignKeyConstraint(
            ["form_schema_id"], ["form_schema.id"], name="fk_submission_form_schema_id"
        ),
        sa.ForeignKeyConstraint(
            ["instruction_set_id"], ["instruction_set.id"], name="fk_submission_instruction_set_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_submission"),
        sa.UniqueConstraint(
            "assignment_id", "revision", name="uq_submission_assignment_id_revision"
        ),
        sa.UniqueConstraint("idempotency_key", name="uq_submission_idempotency_key"),
    )
    op.create_table(
        "prompt_rating",
        sa.Column("submission_id", sa.Integer, nullable=False),
        sa.Column("flags", sa.JSON, nullable=False),
        sa.Column("use_case", sa.Text),
        sa.Column("language", sa.Text),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submission.id"], name="fk_prompt_rating_submission_id"
        ),
        sa.PrimaryKeyConstraint("submission_id", name="pk_prompt_rating"),
    )
    op.create_table(
        "response_rating",
        sa.Column("submission_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("likert", sa.Integer),
        sa.Column("flags", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["submission.id"], name="fk_response_rating_submission_id"
        ),
        sa.PrimaryKeyConstraint("submission_id", "position", name="pk_response_rating"),
    )
