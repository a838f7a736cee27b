"""Alembic's entry: the connection comes from labeling.store.engine."""

from alembic import context

from labeling.store.models import Tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Tables.metadata,
    transactional_ddl=False,  # the caller's transaction holds all of it
    render_as_batch=True,
)
context.run_migrations()
