"""Names of people: what can be one, and which ones a reader would take for each other.

After Unicode Technical Standard 39: a word mixes no scripts that share letter shapes, and two names are alike
where their skeletons are. The table holds what looks the same in common typefaces, not the whole standard.
"""

from __future__ import annotations

import re
import unicodedata

from align.errors import UserError

ERASED = "erased"  # how the names of erased people begin
_SHARING = {
    "LATIN",
    "CYRILLIC",
    "GREEK",
    "ARMENIAN",
    "CHEROKEE",
    "COPTIC",
}  # scripts with letters that look alike
_CAPITALS = str.maketrans(
    "АВЕЅІЈКМНОРСТУХԚԜҺ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" + "ԱՍՕ",
    "ABESIJKMHOPCTYXQWH" + "ABEZHIKMNOPTYX" + "USO",
)
_SMALL = str.maketrans(
    "авгеѕіјкмнопрстухԛԝһԁ" + "αβγεικνορτυχω" + "օսհոզց" + "ıɑɡ01",
    "abresijkmhonpctyxqwhd" + "abyeikvoptuxw" + "ouhnqg" + "iagol",
)
_ALIKE = (("i", "l"), ("rn", "m"), ("vv", "w"))  # a capital i is a small l in most typefaces


def good_name(name: str) -> str:
    """A name as it is kept; raises UserError where it can't be one."""
    name = tidy(name)
    if not name or len(name) > 80 or not name.isprintable():
        raise UserError("A name needs 1 to 80 characters that can be printed.")
    return name


def tidy(name: str) -> str:
    """A name in one spelling: single spaces, accents joined to their letters."""
    return unicodedata.normalize("NFC", " ".join(name.split()))


def check_scripts(name: str) -> None:
    """Raises UserError where a word mixes scripts whose letters look alike, as Latin and Cyrillic."""
    for word in re.split(r"[^\w]+", name):
        scripts = {unicodedata.name(c, "?").split()[0] for c in word if c.isalpha()} & _SHARING
        if len(scripts) > 1:
            named = " and ".join(sorted(script.capitalize() for script in scripts))
            raise UserError(f"{word} mixes {named} letters, which look alike: write the name in one of them.")


def skeleton(name: str) -> str:
    """The same text for names that a reader would take for each other."""
    plain = unicodedata.normalize("NFKC", name).translate(_CAPITALS)
    plain = re.sub(r"[\W_]+", " ", plain.casefold().translate(_SMALL)).strip()
    for parts, whole in _ALIKE:
        plain = plain.replace(parts, whole)
    return plain
