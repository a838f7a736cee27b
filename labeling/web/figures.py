"""The page of figures. Numeric libraries are loaded when somebody first looks."""

from __future__ import annotations

import importlib
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from labeling.figures import cards
from labeling.figures.shapes import Figures, OwnFigures
from labeling.store.models import Person
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
        own = _own_figures(who.config, who.person)
        shown = {"headline": cards.own_headline(own), "sections": cards.own_sections(own), "sway": None}
    return page(who, "figures.html", **shown)


def all_figures(config: Config) -> Figures:
    """Of everybody's work, as it is now."""
    compute = importlib.import_module("labeling.figures.compute")
    with config.store.read() as session:
        return compute.figures(session)


def _own_figures(config: Config, person: Person) -> OwnFigures:
    compute = importlib.import_module("labeling.figures.compute")
    with config.store.read() as session:
        return compute.own(session, person)
