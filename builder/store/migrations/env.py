"""Alembic's environment: the connection comes from `builder.store.engine.open_store`."""

from alembic import context

from builder.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
