"""What is odd about the texts of single records: a line for each kind that align.check.gather counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from align.check.gather import Gathered
from align.check.result import EXAMPLES, MANY, MUCH, NEVER, Finding, by_share, number

_SHOWN = 60  # characters of a text that a finding shows


@dataclass(frozen=True)
class Oddity:
    """A mark of `gather`, and the finding that it becomes.

    mark: with a blank at its end, all marks that begin so; what follows is `{hit}` in `after`. limit: the
    share from which on it is a warning. one, several: what has it. after: what follows the count; `{words}`
    are the first ones in which it was seen, `{said}` the same as they stand, `{opening}` how they begin.
    answers: whether answers are counted, and not records. code: the finding's, where it is not the mark's.
    beyond: only where it was seen more often than this mark.
    """

    mark: str
    limit: float
    one: str
    several: str
    after: str
    answers: bool = False
    code: str = ""
    beyond: str = ""


_RECORD, _PROMPT_HOLDS = ("record holds", "records hold"), ("prompt holds", "prompts hold")
_RANKING, _RESPONSE = ("ranking holds", "rankings hold"), ("response is", "responses are")
_BEGINS, _HAS = ("response begins", "responses begin"), ("response has", "responses have")
_STRIPPED = " words that the base's chat template leaves out of an answer, and training keeps: {words}"

ODDITIES = (
    Oddity(
        "control ",
        0,
        *_RECORD,
        " the text {hit!r}, which the tokenizer reads as a control token: take it out",
        code="control_token",
    ),
    Oddity(
        "markup ",
        0,
        *_RECORD,
        " the text {hit!r}, which is another chat template's: the base's own is written around it, so take "
        "it out, and write earlier turns as messages",
        code="foreign_markup",
    ),
    Oddity(
        "placeholder ",
        0,
        *_PROMPT_HOLDS,
        " {hit!r}, where something stood that the model cannot see: leave such records out, or take it out "
        "of the texts",
        code="placeholder",
    ),
    Oddity(
        "speaker_tag",
        0,
        "prompt begins",
        "prompts begin",
        " with the name of a speaker (Human:, User:), and the chat template says itself who speaks: take it "
        "out, or let `format: hh-rlhf` read `prompt`",
    ),
    Oddity(
        "list_as_text",
        0,
        "prompt is a list",
        "prompts are lists",
        " written as text, read with its brackets: write the text, or turns as messages",
    ),
    Oddity(
        "no_input",
        0,
        "prompt ends",
        "prompts end",
        " with what tables write where there is nothing (nan, None, <noinput>, …), as a part of the prompt: "
        "leave the cell empty if it is none",
    ),
    Oddity(
        "same_text_ranked_apart",
        0,
        *_RANKING,
        " one text twice, ranked differently: such a label can only be noise",
    ),
    Oddity("identical", MUCH, *_RANKING, " one response twice", beyond="same_text_ranked_apart"),
    Oddity("near_identical", MANY, *_RANKING, " responses that are nearly the same"),
    Oddity("says_nothing", MUCH, *_RESPONSE, " punctuation only", answers=True),
    Oddity(
        "no_cell",
        0,
        *_RESPONSE,
        " what a table writes for an empty cell (nan, NULL, None, …): leave the cell empty if it is none",
        answers=True,
    ),
    Oddity(
        "glued",
        MUCH,
        *_BEGINS,
        " with a letter right behind the prompt's last one: with template: plain, begin it with a space",
        answers=True,
    ),
    Oddity(
        "prompt_ends_with_space",
        MUCH,
        "prompt ends",
        "prompts end",
        " with a space, and tokenizers expect it before the next word: move it to the response",
    ),
    Oddity(
        "response_starts_with_space",
        MANY,
        *_BEGINS,
        " with a space, which the answers that a chat template writes do not",
        answers=True,
    ),
    Oddity(
        "repeats_prompt",
        MUCH,
        "record has responses that all begin",
        "records have responses that all begin",
        " with the prompt's own words: if these were left in the responses, they would be there twice",
    ),
    Oddity(
        "reasoning_dropped",
        NEVER,
        "prompt has",
        "prompts have",
        " reasoning of earlier answers, which the chat template leaves out as it does in a chat",
    ),
    Oddity(
        "reasoning_never_ends",
        0,
        *_HAS,
        " no end of the reasoning that the chat template has opened before it",
        answers=True,
    ),
    Oddity(
        "not_verbatim",
        0,
        "text has",
        "texts have",
        " tokens that are not its bytes, so it is trained otherwise than it is written: {said}",
        answers=True,
    ),
    Oddity(
        "straddles",
        MUCH,
        *_HAS,
        " a first token that the chat template's own text has together with the generation prompt's last "
        "({opening!r}): it is trained apart from it, as it would be sampled",
        answers=True,
    ),
    Oddity("answer_stripped", 0, *_HAS, _STRIPPED, answers=True),
    Oddity("reasoning_stripped", NEVER, *_HAS, _STRIPPED, answers=True, code="answer_stripped"),
)


def of_texts(gathered: Gathered) -> Iterator[Finding]:
    """What is odd about single records of one kind, on both sides together."""
    piles = (gathered.train, gathered.held_out)
    records = sum(len(pile.rows) for pile in piles)
    answers = sum(len(row.lengths) for pile in piles for row in pile.rows) or records
    first = {mark: said for pile in reversed(piles) for mark, said in pile.first.items()}
    seen = {mark for pile in piles for mark, count in pile.counts.items() if count}

    def times(mark: str) -> int:
        return sum(pile.counts[mark] for pile in piles)

    for odd in ODDITIES:
        marks = [
            mark for mark in seen if mark == odd.mark or (odd.mark[-1] == " " and mark.startswith(odd.mark))
        ]
        for mark in sorted(marks):
            if odd.beyond and times(mark) <= times(odd.beyond):
                continue
            said = first.get(mark, "")
            after = odd.after.format(
                hit=mark.removeprefix(odd.mark), words=_shown(said), said=said, opening=said[:30]
            )
            places = [place for pile in piles for place in pile.places[mark]][:EXAMPLES]
            severity = by_share(times(mark), answers if odd.answers else records, odd.limit)
            message = number(times(mark), odd.one, odd.several) + after
            yield Finding(severity, odd.code or mark, f"data.{gathered.kind}", message, places)


def _is(mark: str, odd: Oddity) -> bool:
    return mark.startswith(odd.mark) if odd.mark.endswith(" ") else mark == odd.mark


def _shown(words: str) -> str:
    words = " ".join(words[:1000].split())
    return repr(words if len(words) <= _SHOWN else f"{words[:_SHOWN]}…")
