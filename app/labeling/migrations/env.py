"""Alembic's entry: `Database.upgrade` hands over its open transaction, so a failed migration leaves
nothing behind.
"""

from alembic import context

from app.labeling.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
