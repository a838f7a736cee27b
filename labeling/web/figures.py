"""The page of figures. Numeric libraries are loaded when somebody first looks."""

from __future__ import annotations

import importlib

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from labeling.figures import cards
from labeling.figures.shapes import Figures, OwnFigures
from labeling.store.models import Person
from labeling.web.config import Config
from labeling.web.pages import page
from labeling.web.security import PEOPLE, Visitor, needs

router = APIRouter(include_in_schema=False)
_person = Depends(needs(*PEOPLE))


@router.get("/figures")
def figures(request: Request, who: Visitor = _person) -> Response:
    """Everybody's figures for those who review; for others their own, blind to what the rest says."""
    config: Config = request.app.state.config
    sway = None
    if who.reviews:
        found = all_figures(config)
        sway = found.sway
        headline, sections = cards.headline(found), cards.sections(found)
    else:
        own = _own_figures(config, who.person)
        headline, sections = cards.own_headline(own), cards.own_sections(own)
    return page(request, "figures.html", who, headline=headline, sections=sections, sway=sway)


def all_figures(config: Config) -> Figures:
    """Of everybody's work, as it is now."""
    compute = importlib.import_module("labeling.figures.compute")
    with config.store.read() as session:
        return compute.figures(session)


def _own_figures(config: Config, person: Person) -> OwnFigures:
    compute = importlib.import_module("labeling.figures.compute")
    with config.store.read() as session:
        return compute.own(session, person)
