"""What a chat template makes of a conversation: nothing of it may be lost without a word.

The templates are small copies of what families of bases come with.
"""

from pathlib import Path
from typing import Any

import pytest
from test_tokenize import tokenizer

from align.data.chat_template import ChatTemplate
from align.data.rendering import Rendering
from align.data.template import Template
from align.errors import UserError
from align.records import Prompt

GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + GENERATION
)
QWEN3 = (
    "{% if tools %}<|im_start|>system\n# Tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in content and not loop.last %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>\n{{ content }}\n</tool_response>"
    "{% else %}{{ content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}" + GENERATION
)
LLAMA = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|system|>{{ system }}<|eot|>{% for m in messages %}{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls at once!') }}{% endif %}"
    '<|assistant|>{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|eot|>'
    "{% elif m.role == 'tool' %}<|ipython|>{{ m.content | tojson }}<|eot|>"
    "{% else %}<|{{ m.role }}|>{{ m.content | trim }}<|eot|>{% endif %}{% endfor %}"
    "{% if tools %}{% for tool in tools %}{{ tool | tojson(indent=4) }}{% endfor %}{% endif %}<|assistant|>"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
DEAF = (  # says nothing of a system message
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
)
LAST_ONLY = "<|user|>{{ messages[-1].content }}<|assistant|>"
DEEPSEEK = (  # adds up texts, and opens the reasoning itself
    "{% for m in messages %}{% if m.role == 'assistant' and m.content is not defined %}<|call|>"
    "{% for call in m.tool_calls %}{{ call.function.name + ' ' + call.function.arguments }}{% endfor %}"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content.split('</think>')[-1] }}"
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
TOOLS = [{"name": "weather", "description": "The weather at a place."}]
CALLS = [{"name": "weather", "arguments": {"city": 'Köln "am" Rhein', "days": 3}}]
USER = {"role": "user", "content": "  Is it\twarm? "}
SYSTEM = {"role": "system", "content": "Be brief."}
CALLED = {"role": "assistant", "tool_calls": CALLS}
SEEN = {"role": "tool", "content": '{"t":20,\n"sky":"bläulich"}'}
THOUGHT = {"role": "assistant", "content": "<think>\nHm, hm.\n</think>\n\nYes."}


def written(template: str, *messages: dict[str, Any], tools: Any = None) -> str | UserError:
    prompt = Prompt.from_dict({"prompt": list(messages), "tools": tools}).prompt
    return Rendering(tokenizer(), ChatTemplate(template)).prompt(prompt)


@pytest.mark.parametrize("template", [CHATML, QWEN3, LLAMA, DEEPSEEK])
def test_whole_conversations_come_through(template: str) -> None:
    for talk in ([USER], [SYSTEM, USER], [USER, {"role": "assistant", "content": "Yes."}, USER]):
        text = written(template, *talk)
        assert isinstance(text, str)
        assert all(str(message["content"]).strip() in text for message in talk)


@pytest.mark.parametrize("template", [QWEN3, LLAMA])
def test_tools_calls_and_observations_are_written_in_the_templates_own_way(template: str) -> None:
    text = written(template, SYSTEM, USER, CALLED, SEEN, tools=TOOLS)
    assert isinstance(text, str)
    assert '": {"city": "Köln \\"am\\" Rhein", "days": 3}}' in text
    assert "The weather at a place." in text
    assert text.count("bläulich") == 1


def test_a_template_that_adds_up_texts_gets_the_arguments_as_text() -> None:
    text = written(DEEPSEEK, USER, CALLED, SEEN)
    assert isinstance(text, str)
    assert '<|call|>weather {"city": "Köln \\"am\\" Rhein", "days": 3}<|tool|>' in text


@pytest.mark.parametrize(
    ("template", "messages", "tools", "words"),
    [
        (
            DEAF,
            [SYSTEM, USER],
            None,
            "drops the system message 'Be brief.': put it into the first user message",
        ),
        (GEMMA, [SYSTEM, USER], None, "refuses the prompt: System role not supported"),
        (CHATML, [USER], TOOLS, "knows no tools: leave them out"),
        (CHATML, [USER, CALLED, SEEN], None, "swallows the tool call of message 2 (assistant)"),
        (LAST_ONLY, [USER, THOUGHT, USER], None, "swallows message 1 (user) 'Is it warm?'"),
        (
            LLAMA,
            [USER, CALLED | {"content": "I look."}, SEEN],
            None,
            "swallows message 2 (assistant) 'I look.'",
        ),
        (LLAMA, [USER, CALLED | {"tool_calls": CALLS * 2}, SEEN], None, "refuses the prompt: only single"),
        (PARTS, [USER], None, "swallows message 1 (user) 'Is it warm?'"),
        ("{{ messages[0].content.x.y }}", [USER], None, "refuses the prompt: "),
        ("{{ 1 + messages[0].content }}", [USER], None, "cannot write the prompt: "),
    ],
)
def test_what_would_be_lost_is_said(
    template: str, messages: list[dict[str, Any]], tools: Any, words: str
) -> None:
    problem = written(template, *messages, tools=tools)
    assert isinstance(problem, UserError)
    assert words in str(problem)


def test_words_that_also_stand_elsewhere_do_not_hide_that_a_message_is_lost() -> None:
    problem = written(DEAF, {"role": "system", "content": "warm"}, USER)
    assert isinstance(problem, UserError)
    assert "drops the system message 'warm'" in str(problem)


def test_a_word_that_only_some_contents_lose_is_found_too() -> None:
    careless = CHATML.replace("{{ m.content }}", "{{ m.content.split('###')[0] }}")
    assert isinstance(written(careless, USER), str)
    problem = written(careless, {"role": "user", "content": "a ### b"})
    assert "swallows message 1 (user) 'a ### b'" in str(problem)


def test_reasoning_of_earlier_answers_may_go_and_is_told() -> None:
    rendering = Rendering(tokenizer(), ChatTemplate(QWEN3))
    talk = Prompt.from_dict({"prompt": [USER, THOUGHT, USER]}).prompt
    text = rendering.prompt(talk)
    assert isinstance(text, str)
    assert "Yes." in text
    assert "Hm" not in text
    assert rendering.drops_reasoning(talk)
    assert not Rendering(tokenizer(), ChatTemplate(CHATML)).drops_reasoning(talk)
    assert not rendering.drops_reasoning("a <think>b</think>")
    beside = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert rendering.drops_reasoning(Prompt.from_dict({"prompt": [USER, beside, USER]}).prompt)


def test_what_a_template_strips_of_an_answer() -> None:
    assert Rendering(tokenizer(), ChatTemplate(QWEN3)).strips("Hi", "<think>\nHm\n</think>\n\nYes.") is None
    r1 = Rendering(tokenizer(), ChatTemplate(DEEPSEEK))
    assert r1.strips("Hi", "<think>\nHm\n</think>\n\nYes.") == "<think>\nHm\n</think>"
    assert r1.strips("Hi", "Hm\n</think>\n\nYes.") == "Hm\n</think>"
    assert r1.strips("Hi", "Yes.") is None
    assert Rendering(tokenizer(), ChatTemplate(LAST_ONLY + "{{ 'x' }}")).strips("Hi", "Yes.") is None


def test_a_tag_that_the_template_has_written_may_not_come_twice() -> None:
    template = Template(tokenizer(chat=DEEPSEEK), "chat")
    assert template.opened == ("<think>", False)
    assert template.response_ids("Hm\n</think>\n\nYes.")
    with pytest.raises(UserError, match=r"begins with '<think>'.*come twice"):
        template.response_ids("<think>\nHm\n</think>\n\nYes.")
    closed = DEEPSEEK.replace("<think>\n", "<think>\n\n</think>\n\n")
    assert Template(tokenizer(chat=closed), "chat").opened == ("<think>", True)
    assert Template(tokenizer(chat=CHATML), "chat").opened is None
    assert Template(tokenizer(), "plain").response_ids("<think>")


@pytest.mark.parametrize(
    "text",
    [
        "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:",
        "Human: Hi\n\nAssistant: Hello",
        "a\n\nHuman: Hi\n\nAssistant:",
        "Human: Hi\nAssistant: ",
        "Be brief.\nUser: Hi\nBot: Hello\nUser: Bye\nAI:",
        "User: Hi\nAssistant: Hello\nUser: Bye",
        "\n\nHuman: Hi\n\nAI: Hello\n\nHuman: Bye",
    ],
)
def test_a_raw_transcript_is_no_chat_prompt(text: str) -> None:
    for prompt in (text, ({"role": "user", "content": text},)):
        with pytest.raises(UserError, match=r"is a transcript .*hh-rlhf.*template: plain"):
            Template(tokenizer(chat=CHATML), "chat").prompt_ids(prompt)
    assert Template(tokenizer(), "plain").prompt_ids(text)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>"),
        ("<s>[INST] Hi [/INST]", "[INST]"),
        ("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<start_of_turn>"),
        ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi", "<|start_header_id|>"),
        ("Below is an instruction.\n\n### Instruction:\nHi\n\n### Response:", "### Response:"),
        (
            "A chat with an assistant. USER: Hi ASSISTANT: Yes?</s>USER: Open? ASSISTANT:",
            "USER: … ASSISTANT:",
        ),
        ("USER: Hi\nASSISTANT: ", "USER: … ASSISTANT:"),
        ("Human: Hi Assistant:", "Human: … Assistant:"),
    ],
)
def test_a_prompt_that_a_template_has_written_is_no_chat_prompt(text: str, mark: str) -> None:
    with pytest.raises(UserError, match=r"written by a chat template already.*template: plain") as caught:
        Template(tokenizer(chat=CHATML), "chat").prompt_ids(text)
    assert mark in str(caught.value)
    assert Template(tokenizer(), "plain").prompt_ids(text)


def test_a_text_that_speaks_of_marks_is_a_prompt() -> None:
    for said in (
        "What does <|im_start|> mean?",
        "### Notes\nSum these up.",
        "[Your Name] is a friend. Who?",
        "What does an ASSISTANT: USER: … end with?",
        "Name an assistant:",
    ):
        assert Template(tokenizer(chat=CHATML), "chat").prompt_ids(said)


def test_answers_that_all_end_as_a_template_ends_them_are_told() -> None:
    chat = Template(tokenizer(chat=CHATML), "chat")
    assert "ends with '<|eot_id|>'" in (chat.ended(["Yes.<|eot_id|>", "No.<|eot_id|>\n"]) or "")
    assert "ends with '</s>'" in (chat.ended(["Yes.</s>"]) or "")
    for fine in (["Yes.<|eot_id|>", "No."], ["a <s>struck</s>"], ["<b>"], []):
        assert chat.ended(fine) is None
    assert Template(tokenizer(), "plain").ended(["Yes.<|eot_id|>"]) is None


def test_a_text_about_transcripts_is_one() -> None:
    for said in (
        "Explain this:\n\nHuman: Hi\n\nAssistant: Hello\n\nWho speaks first?",
        "User: Hi\nBot: Hello\nSum this up.",
        "Write a line for the Assistant:",
    ):
        assert Template(tokenizer(chat=CHATML), "chat").prompt_ids(said)


def test_the_templates_of_a_library_write_plain_talk_whole() -> None:
    trl = pytest.importorskip("trl")
    folder = Path(trl.__file__).parent / "chat_templates"
    names = ("qwen2_5", "qwen3", "llama3", "llama3_1", "gemma3", "phi3", "glm4moe", "deepseekv3")
    found = [folder / f"{name}.jinja" for name in names if (folder / f"{name}.jinja").is_file()]
    if not found:
        pytest.skip("this version of trl has no chat templates")
    for path in found:
        text = written(path.read_text(), SYSTEM, USER, {"role": "assistant", "content": "Yes."}, USER)
        assert isinstance(text, str), path.name
