"""Alembic's entry: `Database.upgrade` hands over its open transaction, so a failed migration leaves
nothing behind.
"""

from alembic import context

# The metadata knows the tables of the modules that have been imported.
from app.labeling import chat_tables, tables, task_tables  # noqa: F401

context.configure(
    connection=context.config.attributes["connection"], target_metadata=tables.Base.metadata
)
context.run_migrations()
