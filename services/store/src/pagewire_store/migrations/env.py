"""Alembic's entry: runs the revisions on the connection that it is given."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])

# Nothing is executed on the connection before this: a statement would open a transaction that
# Alembic joins and never commits, and an upgrade would report success and leave nothing behind.
with context.begin_transaction():
    context.run_migrations()
