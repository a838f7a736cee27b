"""All tables, and triggers that keep labels and guidelines from being changed or deleted."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEPT = ("label", "guideline")
_ID, _WHEN = sa.Integer(), sa.DateTime(timezone=True)
# A table's columns, those of them that may be null, what they refer to, the primary key, and what is unique.
_TABLES: dict[str, tuple[Any, ...]] = {
    "guideline": ({"hash": sa.String(64), "text": sa.Text(), "created": _WHEN}, (), {}, ("hash",), ()),
    "person": (
        {"id": _ID, "name": sa.String(80), "role": sa.String(20), "password": sa.Text()}
        | {"created": _WHEN, "disabled": _WHEN},
        ("password", "disabled"),
        {},
        ("id",),
        (("name",),),
    ),
    "setting": ({"key": sa.String(40), "value": sa.Text()}, (), {}, ("key",), ()),
    "item": (
        {"id": _ID, "kind": sa.String(12), "key": sa.String(64), "prompt": sa.JSON(), "plain": sa.Boolean()}
        | {"priority": sa.Float(), "overlap": sa.Integer(), "gold": sa.JSON(none_as_null=True)}
        | {"meta": sa.JSON(), "created": _WHEN, "created_by": _ID},
        ("gold", "created_by"),
        {"created_by": "person.id"},
        ("id",),
        (("key",),),
    ),
    "token": (
        {"id": _ID, "kind": sa.String(10), "hash": sa.String(64), "person_id": _ID, "role": sa.String(20)}
        | {"created": _WHEN, "expires": _WHEN, "ended": _WHEN},
        ("person_id", "role", "expires", "ended"),
        {"person_id": "person.id"},
        ("id",),
        (("hash",),),
    ),
    "draft": (
        {"item_id": _ID, "person_id": _ID, "content": sa.JSON(), "saved": _WHEN},
        (),
        {"item_id": "item.id", "person_id": "person.id"},
        ("item_id", "person_id"),
        (),
    ),
    "label": (
        {"id": _ID, "item_id": _ID, "person_id": _ID, "kind": sa.String(12), "content": sa.JSON()}
        | {"guideline": sa.String(64), "shown_order": sa.JSON(), "seconds": sa.Float()}
        | {"adjudicates": sa.Boolean(), "replaces": _ID, "submission": sa.String(40), "created": _WHEN},
        ("guideline", "seconds", "replaces"),
        {"guideline": "guideline.hash", "item_id": "item.id", "person_id": "person.id"}
        | {"replaces": "label.id"},
        ("id",),
        (("replaces",), ("submission",)),
    ),
    "response": (
        {"id": _ID, "item_id": _ID, "position": sa.Integer(), "text": sa.Text()}
        | {"origin": sa.String(200), "author_id": _ID},
        ("origin", "author_id"),
        {"author_id": "person.id", "item_id": "item.id"},
        ("id",),
        (("item_id", "position"),),
    ),
    "slot": (
        {"id": _ID, "item_id": _ID, "number": sa.Integer(), "state": sa.String(8), "person_id": _ID}
        | {"leased_until": _WHEN, "taken": _WHEN},
        ("person_id", "leased_until", "taken"),
        {"item_id": "item.id", "person_id": "person.id"},
        ("id",),
        (("item_id", "number"), ("item_id", "person_id")),
    ),
}
_INDEXES = (  # after the table that each is on
    ("ix_label_item_id", "label", ["item_id"]),
    ("ix_label_person_id", "label", ["person_id"]),
    ("ix_slot_person_id", "slot", ["person_id"]),
    ("slot_queue", "slot", ["state", "leased_until"]),
)


def upgrade() -> None:
    """Make the tables and their triggers."""
    _tables()
    if op.get_bind().dialect.name == "sqlite":
        for table in KEPT:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table}s are only ever added to'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION only_added() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '%s are only ever added to', TG_TABLE_NAME; END $$"
    )
    for table in KEPT:
        op.execute(
            f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION only_added()"
        )


def _tables() -> None:
    for name, (columns, null, references, primary, unique) in _TABLES.items():
        op.create_table(
            name,
            *(sa.Column(column, of, nullable=column in null) for column, of in columns.items()),
            *(sa.ForeignKeyConstraint([column], [other]) for column, other in references.items()),
            sa.PrimaryKeyConstraint(*primary),
            *(sa.UniqueConstraint(*together) for together in unique),
        )
        for index, table, on in _INDEXES:
            if table == name:
                op.create_index(index, table, on)
