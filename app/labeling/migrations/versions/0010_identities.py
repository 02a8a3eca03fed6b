"""Which identity of an identity provider is which person."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "known_identity",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("person_id", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_known_identity"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_known_identity_person_id"),
        sa.UniqueConstraint("issuer", "subject", name="uq_known_identity_issuer_subject"),
    )
