"""The page of figures. Numeric libraries are loaded when somebody first looks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from labeling.figures import cards
from labeling.figures.shapes import Figures
from labeling.web.config import Config
from labeling.web.pages import page
from labeling.web.security import SignedIn, SignedInRoute

router = APIRouter(include_in_schema=False, route_class=SignedInRoute)


@router.get("/figures")
def figures(who: SignedIn) -> Response:
    """Everybody's figures for those who review; for others their own, and nothing of what others answered."""
    if who.reviews:
        found = all_figures(who.config)
        shown: dict[str, Any] = {
            "headline": cards.headline(found),
            "sections": cards.sections(found),
            "sway": found.sway,
        }
    else:
        from labeling.figures import compute

        with who.config.store.read() as session:
            own = compute.own(session, who.person)
        shown = {"headline": cards.own_headline(own), "sections": cards.own_sections(own), "sway": None}
    return page(who, "figures.html", **shown)


def all_figures(config: Config) -> Figures:
    """Of everybody's work, as it is now."""
    from labeling.figures import compute

    with config.store.read() as session:
        return compute.figures(session)
