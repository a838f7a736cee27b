"""A row that notes which of its columns are read."""

from __future__ import annotations

from collections.abc import ItemsView
from typing import Any


class Watched(dict[str, Any]):
    """A row; `used` gets the name of each column whose value is taken by its name."""

    def __init__(self, row: dict[str, Any], used: set[str]) -> None:
        super().__init__(row)
        self._used = used

    def __getitem__(self, key: str) -> Any:
        self._used.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, noted."""
        self._used.add(key)
        return super().get(key, default)

    def items(self) -> ItemsView[str, Any]:
        """All of it, noted."""
        self._used.update(self)
        return super().items()
