"""Template and encoding, on small tokenizers of the kinds that bases come with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from align.data.template import Template
from align.data.tokenize import encode_demonstrations, encode_prompts, encode_rankings
from align.errors import UserError
from align.records import Demonstration, Prompt, Ranking

CORPUS = ["the film is warm and funny", "a dull plot with wooden acting", "tell me a story about the sea"]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>"]
CHAT = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<system>Be kind.\n{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = "{% if messages|length > 1 %}{{ raise_exception('only one turn') }}{% endif %}<user>hi<assistant>"
DATED = (
    "<system>{{ strftime_now('%d %b %Y') }}, {{ strftime_now( \"%Y-%m\" ) }}"
    "<user>{{ messages[0].content }}<assistant>"
)


def tokenizer(post: str | None = None, chat: str | None = None, **changes: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE; `post` is what the post-processor makes of a text, such as "<bos> $A"."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=changes.pop("vocab_size", 300),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(changes.pop("corpus", CORPUS), trainer)
    if post:
        marks = [(mark, raw.token_to_id(mark)) for mark in ("<bos>", "<eos>")]
        raw.post_processor = processors.TemplateProcessing(single=post, special_tokens=marks)
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"} | changes
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    made.chat_template = chat
    return made


def text_of(tok: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return str(tok.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        (None, "the film"),
        ("<bos> $A", "<bos>the film"),
        ("<bos> $A <eos>", "<bos>the film"),
        ("$A <eos>", "the film"),
    ],
)
def test_a_plain_prompt_keeps_its_bos_and_never_an_eos(post: str | None, expected: str) -> None:
    tok = tokenizer(post)
    assert text_of(tok, Template(tok, "plain").prompt_ids("the film")) == expected


def test_a_plain_prompt_where_bos_and_eos_are_one_token() -> None:
    tok = tokenizer("<eos> $A", bos_token="<eos>")
    assert text_of(tok, Template(tok, "plain").prompt_ids("the film")) == "<eos>the film"


@pytest.mark.parametrize("post", [None, "<bos> $A", "<bos> $A <eos>"])
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_a_response_is_its_text_and_one_eos(post: str | None, kind: Literal["plain", "chat"]) -> None:
    tok = tokenizer(post, CHAT)
    template = Template(tok, kind)
    ids = template.response_ids(" is warm,\n  and 🙂")
    assert text_of(tok, ids) == " is warm,\n  and 🙂<eos>"
    assert ids.count(template.eos_id) == 1
    assert ids[-1] == template.eos_id == tok.eos_token_id


@pytest.mark.parametrize("post", [None, "<bos> $A"])
def test_a_chat_prompt_is_the_templates_text_and_no_second_bos(post: str | None) -> None:
    tok = tokenizer(post, CHAT)
    template = Template(tok, "chat")
    assert text_of(tok, template.prompt_ids("Hi")) == "<bos><system>Be kind.\n<user>Hi\n<assistant>"
    assert template.prompt_ids("Hi") == template.prompt_ids(({"role": "user", "content": "Hi"},))
    talk = tuple({"role": role, "content": role[0]} for role in ("system", "user", "assistant", "user"))
    assert text_of(tok, template.prompt_ids(talk)) == (
        "<bos><system>s\n<user>u\n<assistant>a\n<user>u\n<assistant>"
    )


def test_a_dated_chat_template_gives_the_same_tokens_every_day() -> None:
    tok = tokenizer(chat=DATED)
    assert (
        text_of(tok, Template(tok, "chat").prompt_ids("Hi"))
        == "<system>26 Jul 2024, 2024-07<user>Hi<assistant>"
    )


def test_what_a_template_cannot_do_is_said() -> None:
    with pytest.raises(UserError, match=r"no chat template.*\n?.*`data.template: plain`"):
        Template(tokenizer(), "chat")
    with pytest.raises(UserError, match="no end-of-sequence token"):
        Template(tokenizer(eos_token=None), "plain")
    talk = tuple({"role": role, "content": "Hi"} for role in ("user", "assistant", "user"))
    with pytest.raises(UserError, match=r"`data.template: chat`"):
        Template(tokenizer(), "plain").prompt_ids(talk)
    with pytest.raises(UserError, match="only one turn"):
        Template(tokenizer(chat=STRICT), "chat").prompt_ids(talk)
    with pytest.raises(UserError, match=r"'<eos>'.*remove it"):
        Template(tokenizer(), "plain").response_ids("the end<eos>")
    with pytest.raises(UserError, match="has no tokens"):
        Template(tokenizer(), "plain").prompt_ids("")


def test_one_user_message_is_its_text_to_a_plain_template() -> None:
    template = Template(tokenizer(), "plain")
    assert template.prompt_ids(({"role": "user", "content": "the film"},)) == template.prompt_ids("the film")


def test_the_hash_changes_with_all_that_changes_tokens(tmp_path: Path) -> None:
    base = tokenizer(chat=CHAT)
    reference = Template(base, "chat").hash
    wider = tokenizer(chat=CHAT)
    wider.add_tokens(["<extra>"])
    turned = json.loads(base.backend_tokenizer.to_str())
    turned["model"]["merges"][-2:] = turned["model"]["merges"][:-3:-1]
    merged = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(turned)), chat_template=CHAT, **base.special_tokens_map
    )
    others = {
        "a word that no probe has": Template(wider, "chat").hash,
        "the order of merges": Template(merged, "chat").hash,
        "kind": Template(base, "plain").hash,
        "chat template": Template(tokenizer(chat=CHAT + " "), "chat").hash,
        "post-processor": Template(tokenizer("<bos> $A", CHAT), "chat").hash,
        "vocabulary": Template(tokenizer(chat=CHAT, corpus=CORPUS[:2]), "chat").hash,
        "eos": Template(tokenizer(chat=CHAT, eos_token="<pad>"), "chat").hash,
    }
    assert len({reference, *others.values()}) == 1 + len(others)
    base(["the film", "a"], padding=True, truncation=True, max_length=3)  # leaves its settings behind
    assert Template(base, "chat").hash == reference
    base.save_pretrained(tmp_path)
    assert Template(AutoTokenizer.from_pretrained(tmp_path), "chat").hash == reference
    assert Template(tokenizer(chat=CHAT), "chat").hash == reference


def test_a_plain_template_does_not_care_about_the_chat_template() -> None:
    assert Template(tokenizer(), "plain").hash == Template(tokenizer(chat=CHAT), "plain").hash


def test_records_are_encoded_in_their_order_with_the_prompt_once() -> None:
    template = Template(tokenizer("<bos> $A"), "plain")
    ranking = Ranking("the film", (" is warm", " is dull", " is"), (1, 2, None))
    (encoded,) = encode_rankings(template, [ranking], 100, "data.rankings")
    assert encoded.prompt == template.prompt_ids("the film")
    assert encoded.responses == [template.response_ids(text) for text in ranking.responses]
    shown = [Demonstration("the film", " is warm"), Demonstration("a dull plot", " with")]
    pairs = encode_demonstrations(template, shown, 100, "data.demonstrations")
    assert [(part.prompt, part.responses) for part in pairs] == [
        (template.prompt_ids(record.prompt), [template.response_ids(record.response)]) for record in shown
    ]
    asked = [Prompt("the film"), Prompt("a dull plot")]
    assert encode_prompts(template, asked, 100, "data.prompts") == [part.prompt for part in pairs]
    assert encode_prompts(template, [], 100, "data.prompts") == []


Encode = Callable[[Template, list[Any], int, str], Any]


@pytest.mark.parametrize(
    ("encode", "short", "long", "longer", "key"),
    [
        (
            encode_demonstrations,
            Demonstration("ab", "cd"),
            Demonstration("ab", "c" * 9),
            Demonstration("ab", "c" * 17),
            "sft.max_length",
        ),
        (
            encode_rankings,
            Ranking("ab", ("c", "dd"), (1, 2)),
            Ranking("ab", ("c", "d" * 9), (1, 2)),
            Ranking("ab", ("d" * 17, "c"), (1, 2)),
            "rm.max_length",
        ),
        (encode_prompts, Prompt("b" * 5), Prompt("b" * 12), Prompt("b" * 20), "ppo.max_prompt_tokens"),
    ],
)
def test_too_long_records_are_counted_and_the_key_is_named(
    encode: Encode, short: Any, long: Any, longer: Any, key: str
) -> None:
    # One token a byte, so that the lengths can be counted by hand: prompt 2 + response 9 or 17 + EOS.
    template = Template(tokenizer(vocab_size=262), "plain")
    encode(template, [short, long], 12, "data.x")
    with pytest.raises(UserError) as caught:
        encode(template, [short, long, longer, longer], 11, "data.x")
    text = str(caught.value)
    assert text.startswith("data.x: 3 of 4 records have more than 11 tokens. The first is record 2 (")
    assert "), 12 tokens. The longest has 20: " in text
    assert f"raise `{key}` to 20" in text


def test_texts_that_name_their_speakers_are_no_chat() -> None:
    cut = Ranking("Human: Is it open?", ("Assistant: Yes.", "Assistant: No."), (1, 2))
    with pytest.raises(UserError, match=r"begins with 'Human:' and every response with 'Assistant:'.*take"):
        encode_rankings(Template(tokenizer(chat=CHAT), "chat"), [cut], 100, "data.rankings")
    assert len(encode_rankings(Template(tokenizer(), "plain"), [cut], 100, "data.rankings")) == 1
    play = [
        Ranking("Human: Is it open?", ("Assistant: Yes.", "No."), (1, 2)),
        Ranking("Who says it?", ("Assistant: me.", "Assistant: I."), (1, 2)),
    ]
    assert len(encode_rankings(Template(tokenizer(chat=CHAT), "chat"), play, 100, "data.rankings")) == 2


def test_a_record_that_cannot_be_encoded_is_named() -> None:
    template = Template(tokenizer(), "plain")
    good = Demonstration("the film", " is warm")
    system = {"role": "system", "content": "be kind"}
    bad = Demonstration((system, {"role": "user", "content": "tell me"}), " a story")
    with pytest.raises(
        UserError, match=r"^data.demonstrations: record 2 \('tell me'\): .*data.template: chat"
    ):
        encode_demonstrations(template, [good, bad], 100, "data.demonstrations")
