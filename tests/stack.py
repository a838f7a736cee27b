"""What tests can be asked of the libraries that are installed: `make test-lowest` has old ones."""

from __future__ import annotations

import pytest

from align.errors import UserError
from align.run.installed import PAGED_FROM, check_engine


def has_paged() -> bool:
    """Whether the installed transformers is new enough for engine paged."""
    try:
        check_engine("paged")
    except UserError:
        return False
    return True


needs_paged = pytest.mark.skipif(
    not has_paged(), reason=f"engine paged needs transformers {PAGED_FROM} or newer"
)
