"""Where a response begins, if a chat template writes thoughts: said before anything trains."""

from __future__ import annotations

from align.data.rendering import OPENED, Rendering

SWITCH = "enable_thinking"  # what Qwen 3 and templates after it call the switch
_BEHIND = "a response stands right behind the generation prompt, in training as in sampling"


def told_thought(rendering: Rendering) -> str | None:
    """How answers are trained where reasoning stands around them in the template; None: none does."""
    before, written = rendering.turn.before, rendering.turn.written or ""
    if rendering.opened is None:
        if OPENED.search(written) is None or OPENED.search(before):
            return None
        return (
            f"the chat template writes {_end(written, before)!r} in front of an answer without a "
            f"thought, and not where it asks for one: {_BEHIND}{_closing(rendering)}"
        )
    tag, closed = rendering.opened
    if closed:
        return (
            f"the generation prompt has a thought that is closed ({_thought(before)!r}): {_BEHIND}, so "
            "responses are answers without a thought"
        )
    return (
        f"the generation prompt opens a thought ({_thought(before)!r}): {_BEHIND}, so responses begin "
        f"inside the thought and have to close it (</{tag[1:]}){_closing(rendering)}"
    )


def _closing(rendering: Rendering) -> str:
    """The way to write answers without thoughts, where the template has one."""
    if SWITCH not in rendering.chat_template.text or SWITCH in rendering.chat_template.kwargs:
        return ""
    off = rendering.with_kwargs(**{SWITCH: False})
    if off.turn.follows and (off.opened is None or off.opened[1]):
        return f"; for answers without thoughts set `data.chat_template_kwargs: {{{SWITCH}: false}}`"
    return ""


def _thought(before: str) -> str:
    """The end of a generation prompt, from the tag that opens a thought."""
    found = OPENED.search(before)
    return before[found.start() :] if found else before


def _end(written: str, before: str) -> str:
    """What is written behind the generation prompt, or from the tag on where that is another."""
    return written.removeprefix(before) if written.startswith(before) else _thought(written)
