"""The language in which a person sees the interface."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column; nobody has chosen one."""
    op.execute("ALTER TABLE person ADD COLUMN language VARCHAR(20)")
