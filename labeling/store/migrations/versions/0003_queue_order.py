"""An index in the queue's order, so that the next task is found without looking at all of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index."""
    op.create_index("item_queue", "item", [sa.text("priority DESC"), "id"])
