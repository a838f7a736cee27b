"""Whether tokenizer, chat template and texts go together: what goes wrong there is seldom seen in a loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from align.check.result import TemplateFacts
from align.data.template import Template
from align.messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _USER, _ANSWER = "Sysmark42.", "Usermark42.", "Answermark42."


def look(tokenizer: PreTrainedTokenizerBase, template: Template, kind: str) -> TemplateFacts:
    """Ask the tokenizer and its chat template a few questions."""
    eos = str(tokenizer.eos_token)
    pad_is_eos = tokenizer.pad_token_id == template.eos_id
    rendering = template.rendering
    if rendering is None:
        return TemplateFacts(kind, eos, pad_is_eos, None, 0, None, None, None)
    user: list[Message] = [{"role": "user", "content": _USER}]
    asked = rendering.render(user, generation=True)
    with_system = rendering.render([{"role": "system", "content": _SYSTEM}, *user], generation=True)
    answered = rendering.render([*user, {"role": "assistant", "content": _ANSWER}])
    header, said = system_prompt(asked, with_system)
    tokens = len(tokenizer(header + said, add_special_tokens=False)["input_ids"]) if said else 0
    follows = turn_end = ends = None
    if asked is not None and answered is not None:
        follows = rendering.turn.follows
        if _ANSWER in answered:
            turn_end = answered.rpartition(_ANSWER)[2].strip() or None
            ends = turn_end.startswith(eos) if turn_end else None
    return TemplateFacts(
        kind,
        eos,
        pad_is_eos,
        said,
        tokens,
        turn_end,
        ends,
        follows,
        rendering.turn.before,
        template.remarks(),
    )


def system_prompt(asked: str | None, with_system: str | None) -> tuple[str, str | None]:
    """(what stands before it, what a template says by itself as the system), None where it says nothing.

    It is what takes the place of a system message that is given, when none is given.
    """
    if asked is None or with_system is None or with_system.count(_SYSTEM) != 1:
        return "", None
    before, _, after = with_system.partition(_SYSTEM)
    fits = asked.startswith(before) and asked.endswith(after) and len(asked) >= len(before) + len(after)
    said = asked[len(before) : len(asked) - len(after)] if fits else ""
    return (before, said) if said.strip() else ("", None)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[str]]:
    """What finds in a text all that the tokenizer reads as special tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {str(token) for token in tokenizer.all_special_tokens}
    found |= {str(token) for token in added if getattr(token, "special", False)}
    found = {token for token in found if token.strip()}
    pattern = re.compile("|".join(re.escape(token) for token in sorted(found, key=lambda t: (-len(t), t))))
    signs = {token[0] for token in found}  # most texts hold none of these, which is found out faster
    return lambda text: pattern.findall(text) if any(sign in text for sign in signs) else []
