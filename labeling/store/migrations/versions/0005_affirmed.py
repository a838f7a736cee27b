"""Whether a person said that what they were shown is right as it stands."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; nobody was asked before."""
    op.execute("ALTER TABLE label ADD COLUMN affirmed BOOLEAN DEFAULT false NOT NULL")
