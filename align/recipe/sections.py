"""The recipe: one typed description of base, data, LoRA and the three stages.

Every field is read somewhere; derived values are properties. Loading from YAML, overriding and
explaining live in `align.recipe.load`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from align.recipe.compare import Compare
from align.recipe.data import Data
from align.recipe.evaluate import Evaluate
from align.recipe.labeling import Labeling
from align.recipe.parts import (
    RUN_NAME,
    Fraction,
    MayChange,
    Move,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Short,
    Training,
)
from align.recipe.ppo import PPO

PATTERN = r"\W"  # what every regular expression of a layer's path holds


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

    start: str | None = Field(
        None, description="run folder whose SFT adapter it goes on from; null: a new adapter on the base"
    )
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
    length_debias: Literal["none", "linear", "lowess", "odin"] = Field(
        "none",
        description="linear, lowess: what length adds to scores is fitted after training and taken off; "
        "odin: a second head learns length and is thrown away",
    )
    length_coef: PositiveFloat = Field(
        1.0, description="odin: weight of the loss that keeps length out of the first head and in the second"
    )
    orthogonal_coef: NonNegativeFloat = Field(
        1.0, description="odin: weight of the cosine between the two heads"
    )

    members: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="reward models that are trained side by side on one base; their scores are averaged"
    )
    member_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="the share of the training prompts that each of several members learns from"
    )

    @model_validator(mode="after")
    def _members(self) -> RM:
        if self.members == 1 and self.member_share != type(self).model_fields["member_share"].default:
            raise ValueError(
                "member_share does nothing with members: 1, which learns from all prompts: take it out, or "
                "set members to 2 or more"
            )
        if self.members > 1 and self.length_debias == "odin":
            raise ValueError(
                "length_debias: odin trains one reward model: set members to 1, or choose "
                "`length_debias: linear` or `lowess`"
            )
        return self

    @model_validator(mode="after")
    def _odin(self) -> RM:
        fields = type(self).model_fields
        for key in ("length_coef", "orthogonal_coef"):
            if self.length_debias != "odin" and getattr(self, key) != fields[key].default:
                raise ValueError(
                    f"{key} does nothing with length_debias: {self.length_debias}: take it out, or choose "
                    "`length_debias: odin`"
                )
        return self


class DPO(Supervised):
    """Direct preference optimisation on rankings, by TRL's trainer (arXiv 2305.18290)."""

    sft: str | None = Field(None, description="run folder of policy and reference; null: this run")
    learning_rate: PositiveFloat = Field(2e-5, description="the peak learning rate")
    beta: PositiveFloat = Field(0.1, description="how strongly the policy is held to the reference")
    pairs: Literal["all", "best"] = Field(
        "all",
        description="all: each two responses of different ranks; best: the best with every worse",
    )
    batch_size: PositiveInt = Field(16, description="pairs a step, over all processes")
    microbatch_size: Annotated[PositiveInt | None, MayChange()] = Field(
        None, description="pairs in one forward pass of one process; null: all of its share"
    )
    gradient_checkpointing: Annotated[bool | Literal["auto"], MayChange()] = Field(
        "auto", description="save memory by computing activations twice; auto: where it would not fit without"
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
    """Base, data, the three stages, labeling and evaluation: what a run is."""

    base: Base
    run: Run
    data: Data = Data()
    lora: Lora = Lora()
    sft: SFT = SFT()
    rm: RM = RM()
    ppo: PPO = PPO()
    dpo: DPO = DPO()
    labeling: Labeling = Labeling()
    evaluate: Evaluate = Evaluate()
    compare: Compare = Compare()

    @classmethod
    def in_full(cls, value: Any) -> tuple[Any, list[Move]]:
        """`sft:` with all lines beneath commented out too, which is an empty section."""
        if isinstance(value, dict):
            fields = cls.model_fields
            value = {key: {} if key in fields and part is None else part for key, part in value.items()}
        return super().in_full(value)

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        if self.sft.start and self.lora.modules_to_save:
            raise ValueError(
                "sft.start does not go with lora.modules_to_save, whose embeddings are another base: take "
                "one of them out"
            )
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
