"""The recipe: one typed description of base, data, LoRA and the three stages.

Every field is read somewhere; derived values are properties. Loading from YAML, overriding and
explaining live in `align.recipe.load`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from align.recipe.columns import FORMS, Columns
from align.recipe.labeling import Labeling
from align.recipe.parts import (
    RUN_NAME,
    Fraction,
    MayChange,
    Move,
    NonNegativeFloat,
    NonNegativeInt,
    OneOrMore,
    PositiveFloat,
    PositiveInt,
    Section,
    Short,
    Training,
)
from align.recipe.ppo import PPO

PATTERN = r"\W"  # what every regular expression of a layer's path holds
HUB_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+"
LABELS = "labels"  # the format of an entry that is a labeling database
LABEL_FILTERS = ("guideline", "labelers", "agreement", "corrections", "until")  # which labels it gives
WITH_COLUMNS = ("label-studio", "argilla", "argilla-flat")  # formats whose fields `columns` may name
LABEL_KEYS = (LABELS, *LABEL_FILTERS)
# Texts that somebody wrote for a truth value: YAML 1.1 reads most of them so.
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# What transformers' apply_chat_template is told by align, and may not be told by a recipe.
TEMPLATE_OWN = {
    *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length", "sanitize_control_tokens"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask"),
}
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".zst")


class Base(Section):
    """The pretrained checkpoint that all roles share."""

    name: Annotated[str, Short()] = Field(
        min_length=1, description="a folder, or a model's id on the Hugging Face hub"
    )
    revision: str | None = Field(None, description="the hub's commit, branch or tag")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on a GPU that has it, float32 on a CPU"
    )
    quantize: Literal["4bit"] | None = Field(
        None, description="4bit: the base's matrices in four bits (NF4, by bitsandbytes); adapters stay whole"
    )
    attention: str | None = Field(None, description="transformers' attn_implementation; null: its own choice")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the checkpoint")

    @property
    def foreign_code(self) -> list[str]:
        """What of other people's code runs when it is loaded: its own, and a kernel of the Hub."""
        own = [f"the Python code of {self.name} (base.trust_remote_code)"] if self.trust_remote_code else []
        kernel = self.attention if self.attention and "/" in self.attention else None
        return own + ([f"the Hub's kernel {kernel} (base.attention)"] if kernel else [])


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


class Lora(Section):
    """The low-rank adapters (arXiv 2106.09685); every role has one of this shape."""

    rank: PositiveInt = Field(16, description="the width of the low-rank update")
    alpha: PositiveInt = Field(32, description="the update is scaled by alpha / rank")
    use_rslora: bool = Field(
        False, description="scale by alpha / sqrt(rank) instead (2312.03732): for high ranks"
    )
    use_dora: bool = Field(
        False, description="train each row's length apart from its direction (DoRA, 2402.09353); slower"
    )
    dropout: Fraction = Field(0.0, description="dropout before the update, in sft only")
    # A name alone would match no whole path.
    targets: list[str] | Literal["all-linear"] | Annotated[str, Field(pattern=PATTERN)] = Field(
        "all-linear",
        min_length=1,
        description="names of the linear layers that get an adapter, or the ends of their paths; a text "
        "other than all-linear is a regular expression that matches whole paths",
    )
    modules_to_save: list[str] | None = Field(
        None,
        min_length=1,
        description="the base's names of its embeddings, its output layer or both ([embed_tokens, lm_head]): "
        "sft trains them whole, for tokens that were added to the base; rm and ppo keep them",
    )
    layers: PositiveInt | None = Field(
        None,
        description="adapt only this many of the upper layers; those below are computed once for all roles",
    )

    @field_validator("targets")
    @classmethod
    def _is_pattern(cls, targets: list[str] | str) -> list[str] | str:
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise ValueError(f"{targets!r} is no regular expression: {error}") from error
        return targets


class Supervised(Training):
    """What sft and rm have in common."""

    epochs: PositiveInt = Field(
        1, description="passes over the training records; ignored when steps is given"
    )
    steps: PositiveInt | None = Field(None, description="optimizer steps in all; null: from epochs")
    max_length: PositiveInt = Field(1024, description="tokens a sequence; a longer one is a bad record")
    evaluate_every: Annotated[PositiveInt | None, MayChange()] = Field(
        None, description="steps between evaluations on held-out records; null: only at the end"
    )
    checkpoint_every: Annotated[PositiveInt, MayChange()] = Field(20, description="steps between checkpoints")


class SFT(Supervised):
    """LoRA supervised fine-tuning on demonstrations."""

    learning_rate: PositiveFloat = Field(2e-4, description="the peak learning rate")
    batch_size: PositiveInt = Field(16, description="demonstrations a step, over all processes")
    microbatch_size: Annotated[PositiveInt | None, MayChange()] = Field(
        None, description="demonstrations in one forward pass of one process; null: all of its share"
    )
    packing: bool = Field(
        False, description="lay a forward pass's demonstrations end to end, without padding"
    )
    gradient_checkpointing: Annotated[bool | Literal["auto"], MayChange()] = Field(
        "auto", description="save memory by computing activations twice; auto: where it would not fit without"
    )


class RM(Supervised):
    """The pairwise Bradley-Terry reward model on rankings."""

    sft: str | None = Field(None, description="run folder whose SFT adapter it starts from; null: this run")
    learning_rate: PositiveFloat = Field(1e-4, description="the peak learning rate")
    batch_size: PositiveInt = Field(16, description="rankings a step, over all processes")
    microbatch_tokens: Annotated[PositiveInt, MayChange()] = Field(
        4096, description="tokens in one forward pass of one process, padding included"
    )
    gradient_checkpointing: Annotated[bool | Literal["auto"], MayChange()] = Field(
        "auto", description="save memory by computing activations twice; auto: where it would not fit without"
    )
    share_prompt: Annotated[bool, MayChange()] = Field(
        True, description="encode a prompt once for all its responses; false: a row a response"
    )
    ties: Literal["ignore", "half"] = Field(
        "ignore", description="what a tie teaches: nothing, or a half-half target"
    )
    margin: NonNegativeFloat = Field(
        0.0, description="scores must differ by margin x the ranking's strength (Llama 2); 0: off"
    )
    centering_coef: NonNegativeFloat = Field(
        0.0, description="weight of the squared sum of a pair's scores, which keeps scores near zero"
    )
    head_std: NonNegativeFloat | None = Field(
        None,
        description="standard deviation of the head's first weights; null: 1/sqrt(width + 1); 0: all scores "
        "start equal, for few labels",
    )


class Run(Section):
    """Where the run lies and how it behaves."""

    name: str = Field(pattern=RUN_NAME, description="the run's folder is folder/name")
    folder: str = Field("runs", description="holds runs; relative to the working directory")
    seed: int = Field(0, ge=0, description="all draws are functions of it")
    threads: Annotated[int, Field(gt=0, le=1024)] | None = Field(
        None, description="CPU threads a process; null: torch's choice"
    )
    deterministic: bool = Field(
        True,
        description="the same bits from the same start on a GPU; false: faster kernels on some, a base whose "
        "kernels have no such form can be trained, and what is done again may differ in the last digits",
    )
    keep: PositiveInt = Field(2, description="checkpoints kept a stage")
    grace: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = Field(
        30.0, description="seconds from SIGTERM or Ctrl-C to the exit, in which a checkpoint is saved"
    )
    timeout: Annotated[float, Field(gt=0, le=604800, allow_inf_nan=False)] = Field(
        1800.0, description="seconds that a process waits for another before the run ends with a message"
    )
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        [], description="tensorboard, wandb or both: where metrics are shown beside metrics.jsonl"
    )

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.folder).expanduser() / self.name


class Recipe(Section):
    """Base, data, the three stages and labeling: what a run is."""

    base: Base
    run: Run
    data: Data = Data()
    lora: Lora = Lora()
    sft: SFT = SFT()
    rm: RM = RM()
    ppo: PPO = PPO()
    labeling: Labeling = Labeling()

    @classmethod
    def in_full(cls, value: Any) -> tuple[Any, list[Move]]:
        """`sft:` with all lines beneath commented out too, which is an empty section."""
        if isinstance(value, dict):
            fields = cls.model_fields
            value = {key: {} if key in fields and part is None else part for key, part in value.items()}
        return super().in_full(value)

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        for key in ("use_dora", "modules_to_save"):
            if not getattr(self.lora, key):
                continue
            if self.base.quantize:
                raise ValueError(
                    f"lora.{key} does not go with base.quantize: take one of them out. In four bits plain "
                    "LoRA is trained"
                )
            if self.ppo.engine == "vllm":
                raise ValueError(f"lora.{key}: a vLLM server takes plain LoRA alone: set ppo.engine to hf")
        return self


SECTIONS: dict[str, type[Section]] = {
    key: kind
    for key, info in Recipe.model_fields.items()
    if isinstance(kind := info.annotation, type) and issubclass(kind, Section)
}
