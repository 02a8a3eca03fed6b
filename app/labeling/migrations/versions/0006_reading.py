"""Batches say how texts are shown and whether a ranking may start from the ratings; answers say
what was seen and done.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    no = sa.text("false")
    op.add_column("batch", sa.Column("view", sa.String(16), server_default="text", nullable=False))
    op.add_column(
        "batch", sa.Column("start_from_ratings", sa.Boolean, server_default=no, nullable=False)
    )
    op.add_column(
        "submission", sa.Column("seen", sa.String(16), server_default="text", nullable=False)
    )
    op.add_column(
        "submission", sa.Column("from_ratings", sa.Boolean, server_default=no, nullable=False)
    )
