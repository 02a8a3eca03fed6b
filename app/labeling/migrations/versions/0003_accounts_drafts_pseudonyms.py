"""Password resets, revoked invitations, sessions that end when idle, drafts that know their tab,
and pseudonyms where questions from the chat named who asked.
"""

import hashlib
import hmac
import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("export", sa.Column("n_broken", sa.Integer, server_default="0", nullable=False))
    op.add_column("invite", sa.Column("revoked_at", sa.Double))
    op.add_column("draft", sa.Column("writer", sa.String(64)))
    op.add_column(
        "login_session", sa.Column("last_seen_at", sa.Double, server_default="0", nullable=False)
    )
    op.execute(sa.text("UPDATE login_session SET last_seen_at = :now").bindparams(now=time.time()))
    op.create_table(
        "password_reset",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_password_reset_person_id"),
        sa.PrimaryKeyConstraint("id", name="pk_password_reset"),
        sa.UniqueConstraint("token_hash", name="uq_password_reset_token_hash"),
    )
    _hide_handles()


def _hide_handles() -> None:
    """Exports showed who had asked a labeler in the chat: the prompt's user was their handle."""
    connection = op.get_bind()
    salt = connection.scalar(
        sa.text("SELECT value FROM site_setting WHERE name = 'pseudonym_salt'")
    )
    asked = connection.execute(
        sa.text(
            "SELECT DISTINCT person.handle FROM prompt JOIN person "
            "ON person.handle = prompt.asked_by WHERE prompt.source = 'chat'"
        )
    ).scalars()
    for handle in list(asked):
        digest = hmac.new(salt.encode(), f"labeler:{handle}".encode(), hashlib.sha256).hexdigest()
        connection.execute(
            sa.text(
                "UPDATE prompt SET asked_by = :name WHERE source = 'chat' AND asked_by = :handle"
            ).bindparams(name=digest[:16], handle=handle)
        )
