"""The `data` section of a recipe: where records come from, and how text becomes tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from align.recipe.columns import FORMS, Columns
from align.recipe.parts import Fraction, Move, NonNegativeInt, OneOrMore, Section, Short

HUB_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+"
LABELS = "labels"  # the format of an entry that is a labeling database
LABEL_FILTERS = ("guideline", "labelers", "agreement", "corrections", "until")  # which labels it gives
WITH_COLUMNS = ("label-studio", "argilla", "argilla-flat")  # formats whose fields `columns` may name
LABEL_KEYS = (LABELS, *LABEL_FILTERS)
LABELER, SOURCE, RECORD = "labeler", "source", "record"  # what `without` names records by
# Texts that somebody wrote for a truth value: YAML 1.1 reads most of them so.
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# What transformers' apply_chat_template is told by align, and may not be told by a recipe.
TEMPLATE_OWN = {
    *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length", "sanitize_control_tokens"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask"),
}
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".zst")


class Entry(Section):
    """One place that records come from."""

    path: Annotated[str, Short()] = Field(
        min_length=1,
        description="a file (.jsonl, .json, .csv, .tsv, .parquet, .arrow; .gz, .zst), a pattern (*.csv), "
        "a folder, or a Hub data set's id",
    )
    format: str | None = Field(
        None,
        description="a format's name, or my_package.my_module:function; null: found from the columns",
    )
    columns: Columns | None = Field(
        None, description="which column holds which part of a record, for data in no known format"
    )
    ignore: list[str] = Field(
        [], description="columns that look like a part of the prompt and are to be left out of it"
    )
    reads: list[str] = Field(
        [], description="a format function's other files: when one changes, the records are read again"
    )
    buckets: list[str] | None = Field(
        None, min_length=1, description="label-studio: the names of a ranker's buckets, best first"
    )
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = Field(
        1.0, description="how often each record comes in an epoch"
    )
    split: str | None = Field(None, description="only files of this split, of a folder or Hub data set")
    subset: str | None = Field(
        None,
        description="only files in this folder of a folder or Hub data set; a name in a dataset_info.json",
    )
    revision: str | None = Field(None, description="the Hub data set's commit, branch or tag")
    guideline: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{1,64}$",
        description="only labels under this guideline: its hash, or its start",
    )
    labelers: list[str] | None = Field(None, min_length=1, description="only labels by these people")
    agreement: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="only tasks on whose order people agree: the least share of pairs; one alone agrees"
    )
    corrections: bool = Field(
        False, description="rankings: what a person wrote in a response's place is preferred to it"
    )
    until: NonNegativeInt | None = Field(
        None, description="labels as they were when the one with this number was the last"
    )

    @classmethod
    def in_full(cls, value: Any) -> tuple[Any, list[Move]]:
        """`labels: runs/r/labeling.db` too, which is a path in the format `labels`."""
        if not isinstance(value, dict) or LABELS not in value or {"path", "format"} & value.keys():
            return super().in_full(value)
        rest = {key: part for key, part in value.items() if key != LABELS}
        return {"path": value[LABELS], "format": LABELS, **rest}, [((LABELS,), ("path",))]

    @model_validator(mode="before")
    @classmethod
    def _labels_alone(cls, value: Any) -> Any:
        if isinstance(value, dict) and LABELS in value and {"path", "format"} & value.keys():
            raise ValueError("labels names a labeling database, and needs neither path nor format")
        return value

    @model_validator(mode="after")
    def _one_reading(self) -> Entry:
        if self.format != LABELS and self.label_filters:
            raise ValueError(f"{', '.join(LABEL_FILTERS)} choose labels of a labeling database (`labels: …`)")
        name = (self.format or "").strip().lower().replace("_", "-")
        if self.columns is not None and name and name not in WITH_COLUMNS:
            raise ValueError("format and columns both say how to read a row; keep one")
        if self.columns is not None and self.columns.fields_alone and not name:
            raise ValueError(f"columns: responses alone make no record. Map one of these: {FORMS}")
        if self.buckets is not None and name not in ("", "label-studio"):
            raise ValueError("buckets are a ranker's in label-studio, and this is another format")
        if self.buckets is not None and self.columns is not None and not name:
            raise ValueError("buckets are a ranker's in label-studio: name it by format, beside columns")
        return self

    @property
    def label_filters(self) -> dict[str, Any]:
        """What chooses among a labeling database's labels, where it says anything."""
        fields = type(self).model_fields
        given = {key: getattr(self, key) for key in LABEL_FILTERS}
        return {key: value for key, value in given.items() if value != fields[key].default}

    @property
    def may_be_hub_id(self) -> bool:
        """Whether the path reads like a Hub data set's id (owner/name), where no such file exists."""
        if self.format == LABELS:
            return False
        return bool(re.fullmatch(HUB_ID, self.path)) and not self.path.lower().endswith(DATA_SUFFIXES)


class Source(Section):
    """One kind of records: what trains, and what is held out."""

    train: Annotated[list[Entry], Short(), OneOrMore()] = Field(
        min_length=1, description="where training records come from"
    )
    held_out: Annotated[Fraction | list[Entry], OneOrMore()] = Field(
        0.05, description="a share of the prompts, chosen by the prompt's hash, or sources of its own"
    )
    split_key: str | None = Field(
        None, description="a column: rows with the same value stay on one side; null: the prompt"
    )
    weight_by: Literal["reliability"] | None = Field(
        None,
        description="rankings, for rm: reliability weighs each by how often its labeler is right, as far as "
        "several people judged the same; null: all alike",
    )
    without: Annotated[list[str], OneOrMore()] = Field(
        [],
        description="records to leave out: record:ID (the start of its SHA-256); of rankings also "
        "labeler:NAME and source:NAME",
    )
    on_bad_record: Literal["fail", "skip"] = Field(
        "fail", description="skip: leave out wrong and too long records, and list them in the run folder"
    )

    @classmethod
    def in_full(cls, value: Any) -> tuple[Any, list[Move]]:
        """`rankings: {labels: …}` too, which is `rankings: {train: [{labels: …}]}`."""
        moves: list[Move] = []
        if isinstance(value, dict) and LABELS in value and "train" not in value:
            entry = {key: value[key] for key in LABEL_KEYS if key in value}
            moves = [*(((key,), ("train", 0, key)) for key in entry), ((LABELS,), ("train",))]
            value = {"train": [entry], **{key: part for key, part in value.items() if key not in entry}}
        full, more = super().in_full(value)
        return full, moves + more

    @model_validator(mode="after")
    def _names_records(self) -> Source:
        for term in self.without:
            what, name = term_of(term)
            if what == RECORD and not re.fullmatch("[0-9a-f]{8,64}", name):
                raise ValueError(
                    f"without: {term}: the ID is the start of the record's SHA-256, of 8 digits or more; "
                    f"`--without record:FILE:LINE` finds it"
                )
        return self

    @model_validator(mode="after")
    def _weights_train(self) -> Source:
        if isinstance(self.held_out, list) and any(entry.weight != 1 for entry in self.held_out):
            raise ValueError(
                "held_out has a weight, and held-out records are read once; weights are for train"
            )
        return self

    @property
    def entries(self) -> list[Entry]:
        """Those that train and those that are held out."""
        return [*self.train, *(self.held_out if isinstance(self.held_out, list) else ())]


def term_of(term: str) -> tuple[str, str]:
    """What `labeler:ann` names records by, and the name; raises ValueError."""
    what, colon, name = term.partition(":")
    if what not in (LABELER, SOURCE, RECORD) or not colon or not name.strip():
        raise ValueError(f"without: {term}: write labeler:NAME, source:NAME or record:ID")
    return what, name


class Data(Section):
    """What people wrote and preferred."""

    template: Literal["chat", "plain"] = Field(
        "chat",
        description="chat: the tokenizer's chat template; plain: the response follows the prompt's text",
    )
    template_name: str | None = Field(
        None,
        min_length=1,
        description="which chat template, where the base has several by name; null: as transformers chooses",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="what the chat template is given beside the messages, as `enable_thinking: false`"
    )
    demonstrations: Source | None = Field(None, description="prompts with the response a person wrote (sft)")
    rankings: Source | None = Field(None, description="prompts with K ranked responses (rm)")
    prompts: Source | None = Field(None, description="prompts that the policy answers (ppo)")
    cache: str = Field(
        "~/.cache/align",
        min_length=1,
        description="folder of records and tokens that were read once, found again by their content",
    )

    @model_validator(mode="after")
    def _only_rankings_have(self) -> Data:
        for source in (self.demonstrations, self.prompts):
            if source is not None and any(entry.corrections for entry in source.entries):
                raise ValueError("corrections makes rankings of corrections: it belongs under data.rankings")
            if source is not None and source.weight_by is not None:
                raise ValueError(
                    "weight_by weighs rankings by their labelers: it belongs under data.rankings"
                )
            for term in source.without if source is not None else ():
                if term_of(term)[0] != RECORD:
                    raise ValueError(
                        f"without: {term}: only rankings say their labeler and source: it belongs under "
                        "data.rankings"
                    )
        return self

    @model_validator(mode="after")
    def _given_to_a_chat_template(self) -> Data:
        given = {"template_name": self.template_name, "chat_template_kwargs": self.chat_template_kwargs}
        for key, value in given.items():
            if value and self.template == "plain":
                raise ValueError(f"{key} is for `template: chat`, and this recipe has `template: plain`")
        if taken := sorted(TEMPLATE_OWN & self.chat_template_kwargs.keys()):
            raise ValueError(f"chat_template_kwargs.{taken[0]}: this is align's own to say; leave it out")
        for key, value in self.chat_template_kwargs.items():
            if isinstance(value, str) and value.lower() in _TRUTH:  # to a template, every text is true
                raise ValueError(
                    f"chat_template_kwargs.{key}: got the text {json.dumps(value)}, which a chat template "
                    f"takes for true; write {json.dumps(_TRUTH[value.lower()])}, without quotes"
                )
        try:
            json.dumps(self.chat_template_kwargs, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "chat_template_kwargs: values are texts, numbers, true, false, null, lists and mappings of "
                f"these, as JSON has them: {error}"
            ) from error
        return self

    @property
    def cache_folder(self) -> Path:
        """The folder of the cache, with ~ expanded."""
        return Path(self.cache).expanduser()
