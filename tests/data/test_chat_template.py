"""What a recipe says to a base's chat template: its name, its kwargs; and what thoughts do to an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_templates
import pytest
from test_tokenize import text_of, tokenizer
from transformers import AutoTokenizer

from align.data.chat_template import find_chat_template
from align.data.template import Template
from align.errors import UserError
from align.records import Prompt

THINKS = "Hi", "Yes."
USER = {"role": "user", "content": "Is it open?"}
SYSTEM = {"role": "system", "content": "Be brief."}
LATER = {"role": "system", "content": "Speak Danish."}
ANSWER = {"role": "assistant", "content": "Yes."}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": {}}}
]
WITH_TOOLS = (
    "{% if tools %}<tools>{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NAMED = {"default": "D" + WITH_TOOLS, "tool_use": "T" + WITH_TOOLS, "rag": "R" + WITH_TOOLS}


def chat(template: Any, name: str | None = None, **kwargs: Any) -> Template:
    return Template(tokenizer(chat=template), "chat", name=name, kwargs=kwargs)


def shown(template: Template, prompt: Any = "Is it open?", tools: Any = None) -> str:
    row = {"prompt": prompt, **({"tools": tools} if tools else {})}
    # Its rendering is asked for by a record, as stages do; the stubs want a tokenizer of one kind.
    return text_of(template._tokenizer, template.prompt_ids(Prompt.from_dict(row).prompt))  # type: ignore[arg-type]


def refused(template: Template, *messages: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        template.prompt_ids(Prompt.from_dict({"prompt": list(messages)}).prompt)
    return str(caught.value)


def test_kwargs_reach_the_template() -> None:
    assert shown(chat(chat_templates.QWEN3)).endswith("<|im_start|>assistant\n")
    off = chat(chat_templates.QWEN3, enable_thinking=False)
    assert shown(off).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_kwargs_make_other_tokens_and_another_hash() -> None:
    plain, off = chat(chat_templates.QWEN3), chat(chat_templates.QWEN3, enable_thinking=False)
    assert len({plain.hash, off.hash, chat(chat_templates.QWEN3, enable_thinking=True).hash}) == 3
    assert chat(chat_templates.QWEN3).hash == Template(tokenizer(chat=chat_templates.QWEN3), "chat").hash


def test_a_kwarg_that_the_template_never_reads_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"enable_thinkin: the base's.*never reads.*Is `enable_thinking` meant"
    ):
        chat(chat_templates.QWEN3, enable_thinkin=False)
    with pytest.raises(UserError, match=r"enable_thinking: .*never reads 'enable_thinking'. Leave it out"):
        chat(chat_templates.QWEN25, enable_thinking=False)


def test_tools_of_the_recipe_are_offered_where_a_record_has_none() -> None:
    template = chat(WITH_TOOLS, tools=[TOOLS[0]["function"]])
    assert shown(template).startswith('<tools>[{"type": "function", "function": {"name": "weather"')
    assert template.remarks() == ['the chat template is given {"tools": ["weather"]} everywhere']
    with pytest.raises(
        UserError, match=r"tools of its own, and data.chat_template_kwargs.tools names others"
    ):
        shown(template, tools=TOOLS)
    with pytest.raises(UserError, match=r"data\.chat_template_kwargs\.tools\[0\]: must be a tool"):
        chat(WITH_TOOLS, tools=[{"title": "weather"}])
    with pytest.raises(UserError, match="knows no tools"):
        shown(chat(chat_templates.QWEN25, tools=TOOLS))


def test_a_named_template_is_taken() -> None:
    assert shown(chat(NAMED, "rag")).startswith("R")
    assert shown(chat(NAMED, "rag"), tools=TOOLS).startswith("R<tools>")
    assert chat(NAMED, "rag").remarks() == []


def test_without_a_name_it_is_as_transformers_chooses_and_told() -> None:
    template = chat(NAMED)
    assert shown(template).startswith("D")
    assert shown(template, tools=TOOLS).startswith("T")
    for tools in (None, TOOLS):
        theirs = tokenizer(chat=NAMED).apply_chat_template(
            [USER], tools=tools, tokenize=False, add_generation_prompt=True
        )
        assert shown(template, tools=tools) == theirs
    (told,) = template.remarks()
    assert "chat templates default, rag, tool_use: 'default' is used, and 'tool_use' where" in told
    assert "data.template_name" in told
    assert len({chat(NAMED).hash, chat(NAMED, "rag").hash, chat(NAMED, "default").hash}) == 3


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        UserError, match=r"data.template_name: .*no chat template 'rga'; it has default, rag, t"
    ):
        chat(NAMED, "rga")
    with pytest.raises(UserError, match=r"data.template_name: .*one chat template, without a name"):
        chat(WITH_TOOLS, "default")
    with pytest.raises(UserError, match=r"chat templates a, b, and none is called 'default': name the one"):
        chat({"a": WITH_TOOLS, "b": WITH_TOOLS})


def test_named_templates_are_read_from_their_folder(tmp_path: Path) -> None:
    tokenizer(chat=NAMED).save_pretrained(tmp_path)
    assert (tmp_path / "additional_chat_templates" / "rag.jinja").is_file()
    found = find_chat_template(AutoTokenizer.from_pretrained(tmp_path), "rag", {})
    assert found.text == NAMED["rag"]


@pytest.mark.parametrize(
    ("template", "name", "kwargs"),
    [
        (chat_templates.QWEN3, None, {"enable_thinking": False}),
        (
            "\n  {% if x %}{{ x | tojson }}{% endif %}" + WITH_TOOLS,
            None,
            {"x": {"é\n'\"": [None, 1.5, True]}},
        ),
        (WITH_TOOLS, None, {"tools": TOOLS}),
        (NAMED, None, {"tools": TOOLS}),
        (NAMED, "rag", {}),
    ],
)
def test_an_exported_tokenizer_writes_the_same_when_it_is_given_nothing(
    tmp_path: Path, template: Any, name: str | None, kwargs: dict[str, Any]
) -> None:
    tok = tokenizer(chat=template)
    own = chat(template, name, **kwargs)
    assert own.chat_template is not None
    tok.chat_template = own.chat_template.exported(tok.chat_template)
    tok.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([USER], tokenize=False, add_generation_prompt=True) == shown(own)


def test_an_exported_default_can_still_be_changed() -> None:
    own = chat(chat_templates.QWEN3, enable_thinking=False)
    assert own.chat_template is not None
    tok = tokenizer(chat=own.chat_template.exported(None))
    text = tok.apply_chat_template([USER], tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert text.endswith("assistant\n")


def test_several_system_messages_come_through_or_are_refused() -> None:
    """Of each family: two at the start, one in the middle."""
    twice, within = [SYSTEM, LATER, USER], [SYSTEM, USER, ANSWER, LATER, USER]
    qwen = chat(chat_templates.QWEN25)
    for talk in (twice, within):
        text = shown(qwen, talk)
        assert text.index("Be brief.") < text.index("Speak Danish.")
        assert "drops the system message 'Be brief.': put it into" in refused(chat(chat_templates.R1), *talk)
        assert "roles must alternate" in refused(chat(chat_templates.LLAMA2), *talk)
        assert "roles must alternate" in refused(chat(chat_templates.MISTRAL), *talk)
        assert "System role not supported" in refused(chat(chat_templates.GEMMA), *talk)
    assert "<<SYS>>\nBe brief.\n<</SYS>>\n\nIs it open?" in shown(chat(chat_templates.LLAMA2), [SYSTEM, USER])
    talk = [SYSTEM, USER, ANSWER, USER]
    assert shown(chat(chat_templates.MISTRAL), talk).endswith("[INST] Be brief.\n\nIs it open?[/INST]")


def test_a_thought_of_an_earlier_turn_is_left_out_and_noted() -> None:
    r1 = chat(chat_templates.R1)
    talk = [USER, {"role": "assistant", "content": "<think>Hm.</think>Yes."}, USER]
    assert "Hm." not in shown(r1, talk)
    assert r1.drops_reasoning(Prompt.from_dict({"prompt": talk}).prompt)


@pytest.mark.parametrize("template", [chat_templates.R1, chat_templates.QWEN3_THINKING])
def test_a_response_stands_right_behind_the_thought_that_the_generation_prompt_opens(template: str) -> None:
    """What training conditions on is what sampling puts there: transformers' own generation prompt."""
    found = chat(template)
    tok = tokenizer(chat=template)
    asked = tok.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    assert found.prompt_ids(USER["content"]) == asked
    assert tok.decode(asked).endswith("<think>\n")
    response = "Hm.\n</think>\n\nYes."
    assert tok.decode(found.response_ids(response)) == response + "<eos>"
    thought = {"role": "assistant", "content": "<think>\n" + response}
    if template == chat_templates.QWEN3_THINKING:  # R1's leaves the thought of a message out
        whole = tok.apply_chat_template([USER, thought], return_dict=False)
        ids = asked + found.response_ids(response)[:-1]
        assert whole[: len(ids)] == ids
    (told,) = found.remarks()
    assert told.startswith(
        "the generation prompt opens a thought ('<think>\\n'): a response stands right behind"
    )
    assert "have to close it (</think>)" in told
    with pytest.raises(UserError, match="the tag would come twice"):
        found.response_ids("<think>\nHm.\n</think>\n\nYes.")


def test_with_thinking_off_the_whole_conversation_begins_with_prompt_and_response() -> None:
    off = chat(chat_templates.QWEN3, enable_thinking=False)
    tok = tokenizer(chat=chat_templates.QWEN3)
    whole = tok.apply_chat_template([USER, ANSWER], enable_thinking=False, return_dict=False)
    ids = off.prompt_ids(USER["content"]) + off.response_ids("Yes.")[:-1]
    assert whole[: len(ids)] == ids
    assert off.remarks() == [
        'the chat template is given {"enable_thinking": false} everywhere',
        "the generation prompt has a thought that is closed ('<think>\\n\\n</think>\\n\\n'): a response "
        "stands right behind the generation prompt, in training as in sampling, so responses are answers "
        "without a thought",
    ]


def test_with_thinking_on_what_the_template_would_put_between_is_told_with_the_way_out() -> None:
    """Qwen 3 writes an empty thought before an answer, and does not ask with one."""
    (told,) = chat(chat_templates.QWEN3).remarks()
    assert told.startswith(
        "the chat template writes '<think>\\n\\n</think>\\n\\n' in front of an answer without"
    )
    assert told.endswith(
        "for answers without thoughts set `data.chat_template_kwargs: {enable_thinking: false}`"
    )
    assert chat(chat_templates.QWEN25).remarks() == []


def test_the_hash_has_kwargs_in_any_order() -> None:
    template = "{{ a }}{{ b }}" + WITH_TOOLS
    assert chat(template, a=1, b=2).hash == chat(template, b=2, a=1).hash
    found = chat(template, a=1).chat_template
    assert found is not None and json.dumps(found.identity)
