"""The `ppo` section of a recipe, and the sources of rewards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from align.recipe import EngineName
from align.recipe.parts import (
    RUN_NAME,
    MayChange,
    NonNegativeFloat,
    NonNegativeInt,
    OneOrMore,
    PositiveFloat,
    PositiveInt,
    Section,
    Training,
    Was,
    check_function_name,
    label_of,
)


class Reward(Section):
    """One source of what a response is worth; exactly one of run, function and url."""

    run: str | None = Field(
        None,
        min_length=1,
        description="run folder of a reward model, on this base or another; `this`: the one of ppo.rm",
    )
    function: str | None = Field(
        None,
        min_length=1,
        description="my_package.my_module:function, from prompts and responses to one number a response",
    )
    url: str | None = Field(
        None,
        min_length=1,
        description='a service that answers {"prompts": …, "responses": …} with {"scores": …}',
    )
    name: str | None = Field(
        None, pattern=RUN_NAME, description="its metric is reward/NAME; null: from run, function or url"
    )
    weight: Annotated[float, Field(allow_inf_nan=False)] = Field(
        1.0, description="the score is the weighted sum; a negative weight punishes"
    )
    timeout: PositiveFloat = Field(60.0, description="seconds that a url may take to answer")

    @model_validator(mode="after")
    def _one_kind(self) -> Reward:
        named = [key for key in ("run", "function", "url") if getattr(self, key) is not None]
        if len(named) != 1:
            found = f"{' and '.join(named)} are all named; keep one" if named else "none is named"
            raise ValueError(f"a source of rewards is one of run, function and url: {found}")
        check_function_name(self.function)
        if self.url and not re.match(r"https?://[^/\s]", self.url):
            raise ValueError(f"url {self.url}: it starts with http:// or https://")
        return self

    @property
    def label(self) -> str:
        """Its name, or one made from what it is."""
        host = re.sub(r"^https?://([^/:?#]*).*$", r"\1", self.url or "", flags=re.DOTALL)
        return self.name or label_of(self.run, self.function) or host


_BY_GROUP = ("rloo", "group")  # compare whole responses to one prompt
_OF_VALUE_MODEL = (
    "value_init",
    "value_model",
    "value_learning_rate",
    "value_gae_lambda",
    "value_clip_range",
    "value_coef",
    "value_warmup",
    "gae_lambda",
)


def check_urls(urls: Sequence[str] | None, key: str) -> None:
    """Raises ValueError unless these can be the addresses of vLLM servers; `key`: what messages call them."""
    if not urls or not all(re.match(r"https?://[^/\s]", url) for url in urls):
        raise ValueError(
            f"engine vllm is a server: set {key} to where it listens, such as http://localhost:8000"
        )
    for url in urls:
        try:
            _ = urlsplit(url).port  # raises where it is no number, or too large
        except ValueError as error:
            raise ValueError(f"{key} is {url}, which is no address: {error}") from error
    plain = [url.rstrip("/").removesuffix("/v1") for url in urls]
    if double := [url for i, url in enumerate(plain) if url in plain[:i]]:
        raise ValueError(f"{key} names {double[0]} twice: each server once")


class PPO(Training):
    """PPO against the reward model, with a KL penalty to the SFT policy."""

    sft: str | None = Field(None, description="run folder of policy and reference; null: this run")
    rm: str | None = Field(None, description="run folder of the reward model; null: this run")
    rewards: Annotated[list[Reward] | None, OneOrMore()] = Field(
        None,
        min_length=1,
        description="what a response is worth, a weighted sum; null: what the reward model says",
    )
    advantage: Literal["gae", "rloo", "group", "reinforce++"] = Field(
        "gae",
        description="gae needs a value model; rloo and group compare the responses to a prompt; "
        "reinforce++ takes the rewards that follow a token",
    )
    value_init: Literal["reward", "policy"] = Field(
        "reward", description="the value model starts as the reward model, or as the policy with value 0"
    )
    value_model: Annotated[
        Literal["separate", "shared"], Was("value_trunk", {"own": "separate", "policy": "shared"})
    ] = Field(
        "separate", description="the value model has an adapter of its own, or only a head on the policy's"
    )
    iterations: PositiveInt = Field(100, description="rollouts, each followed by ppo_epochs of updates")
    learning_rate: PositiveFloat = Field(1e-5, description="the policy's peak learning rate")
    value_learning_rate: PositiveFloat | None = Field(
        None, description="the value model's; null: the policy's"
    )
    rollout_batch_size: PositiveInt = Field(128, description="responses an iteration, over all processes")
    responses_per_prompt: PositiveInt = Field(
        1, description="responses to each prompt of a rollout; rollout_batch_size counts responses"
    )
    minibatch_size: PositiveInt = Field(64, description="responses an update, over all processes")
    microbatch_tokens: Annotated[PositiveInt, MayChange()] = Field(
        8192, description="tokens in one forward pass of one process, padding included"
    )
    sampling_tokens: Annotated[PositiveInt | None, MayChange()] = Field(
        None,
        description="tokens in one decoding batch of one process; null: four times microbatch_tokens, or "
        "what an eighth of a GPU's memory caches, if that is more",
    )
    gradient_checkpointing: Annotated[bool | Literal["auto"], MayChange()] = Field(
        "auto", description="save memory by computing activations twice; auto: where it would not fit without"
    )
    ppo_epochs: PositiveInt = Field(2, description="passes over one rollout")
    max_prompt_tokens: PositiveInt = Field(512, description="a longer prompt is a bad record")
    max_response_tokens: PositiveInt = Field(256, description="a response ends here if no EOS came before")
    min_response_tokens: NonNegativeInt = Field(
        0, description="EOS has no probability before a response has so many tokens"
    )
    temperature: PositiveFloat = Field(
        1.0, description="of sampling, and of the log probabilities that training uses"
    )
    kl_coef: NonNegativeFloat = Field(0.05, description="weight of the KL penalty to the reference")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="how a token's KL is estimated")
    kl_in: Literal["reward", "loss"] = Field(
        "reward", description="the penalty is part of the rewards, or a term of the policy's loss"
    )
    kl_target: PositiveFloat | None = Field(
        None, description="nats a response that kl_coef is steered to; null: kl_coef stays as it is"
    )
    kl_horizon: PositiveInt = Field(
        10000, description="responses over which the steered kl_coef may change by a fifth"
    )
    kl_limit: Annotated[PositiveFloat | None, MayChange()] = Field(
        None, description="the stage stops when a rollout's mean KL is above so many nats a response"
    )
    refusal_limit: Annotated[Annotated[float, Field(gt=0, le=1)] | None, MayChange()] = Field(
        None,
        description="the stage stops when an evaluation finds that the policy refuses a share of the safety "
        "suite's harmless requests that is larger than the SFT policy's by more than this",
    )
    gamma: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="discount a token")
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="GAE's lambda")
    value_gae_lambda: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="lambda of the returns that the value model learns; null: gae_lambda"
    )
    clip_range: PositiveFloat = Field(0.2, description="the policy ratio's clip range")
    clip_range_high: PositiveFloat | None = Field(
        None, description="the clip range above a ratio of 1; null: clip_range"
    )
    value_clip_range: PositiveFloat | None = Field(
        0.2, description="the value's clip range, in units of score; null: no clipping"
    )
    value_coef: PositiveFloat = Field(1.0, description="weight of the value loss")
    entropy_coef: NonNegativeFloat = Field(0.0, description="weight of the entropy bonus")
    target_kl: PositiveFloat | None = Field(
        None, description="an iteration's updates end at this approximate KL, nats a token; null: never"
    )
    value_warmup: Annotated[NonNegativeInt, Was("critic_warmup")] = Field(
        0, description="first iterations in which the value model alone is updated"
    )
    ptx_coef: NonNegativeFloat = Field(
        0.0, description="weight of the demonstrations' loss beside the policy's (PPO-ptx)"
    )
    ptx_batch_size: PositiveInt | None = Field(
        None, description="demonstrations an update where ptx_coef is not 0; null: minibatch_size"
    )
    whiten_advantages: bool = Field(True, description="advantages get mean 0 and variance 1 over the rollout")
    scale_scores: bool = Field(
        False, description="divide scores by their standard deviation on the reward model's demonstrations"
    )
    score_clip: PositiveFloat | None = Field(
        None, description="scores are cut to this far from 0, after scale_scores; null: not cut"
    )
    reward_reduce: Literal["mean", "min", "mean_minus_std"] = Field(
        "mean",
        description="what several members of a reward model (rm.members) are worth together: their mean, the "
        "lowest, or the mean less their standard deviation",
    )
    reward_shape: Literal["none", "centred", "sigmoid"] = Field(
        "none",
        description="centred: the score less the SFT policy's own score for the prompt; sigmoid: of that "
        "difference, between 0 and 1 (PAR)",
    )
    reference_responses: PositiveInt = Field(
        1, description="responses of the SFT policy to a prompt, whose scores reward_shape compares with"
    )
    length_penalty: Annotated[float, Field(allow_inf_nan=False)] = Field(
        0.0, description="taken off the score for every token of the response"
    )
    missing_eos_penalty: NonNegativeFloat = Field(
        1.0, description="taken off the score of a response that the length limit cut"
    )
    evaluate_every: Annotated[PositiveInt | None, MayChange(unless=("keep", "best"))] = Field(
        None, description="iterations between evaluations on held-out prompts; null: only at the end"
    )
    samples_every: Annotated[PositiveInt, MayChange()] = Field(
        25, description="iterations between samples that are shown, with the reference's answers beside them"
    )
    guard: str | None = Field(
        None, description="run folder of a second reward model on the same base, which only watches"
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description="which iteration final/ is: best has the highest held-out score (the guard's, if any)",
    )
    engine: EngineName = Field(
        "hf", description="what samples: transformers' forward pass, its continuous batching, a vLLM server"
    )
    engine_url: Annotated[list[str] | None, OneOrMore(), MayChange()] = Field(
        None,
        min_length=1,
        description="where the servers of engine `vllm` listen: http://host:8000, or a list that shares rows",
    )
    engine_sleep: Annotated[bool, MayChange()] = Field(
        False, description="servers of engine `vllm` give their card's memory back while the stage trains"
    )
    engine_gap_warn: Annotated[PositiveFloat, MayChange()] = Field(
        0.1, description="nats a token between sampling and training forward, above which a run warns"
    )
    engine_gap_stop: Annotated[PositiveFloat, MayChange()] = Field(
        0.5, description="the same, above which it stops"
    )
    importance_cap: PositiveFloat | None = Field(
        None,
        description="weight tokens by p(trainer) / p(engine), at most this; null: trust the engine",
    )
    checkpoint_every: Annotated[PositiveInt, MayChange()] = Field(
        1, description="iterations between checkpoints"
    )

    @model_validator(mode="after")
    def _sizes(self) -> PPO:
        for key in ("minibatch_size", "responses_per_prompt"):
            size = getattr(self, key)
            if self.rollout_batch_size % size:
                whole = f"rollout_batch_size ({self.rollout_batch_size})"
                raise ValueError(f"{whole} must be a multiple of {key} ({size})")
        if self.min_response_tokens >= self.max_response_tokens:
            raise ValueError(
                f"min_response_tokens ({self.min_response_tokens}) must be less than "
                f"max_response_tokens ({self.max_response_tokens}): no response could end with EOS"
            )
        if self.kl_target and not self.kl_coef:
            raise ValueError("kl_target steers kl_coef by factors, and kl_coef is 0: start above it")
        return self

    @model_validator(mode="after")
    def _engine(self) -> PPO:
        if self.engine == "vllm":
            check_urls(self.engine_url, "engine_url")
        for key in ("engine_url", "engine_sleep"):
            if self.engine != "vllm" and getattr(self, key):
                raise ValueError(f"{key} is for engine vllm, and the engine is {self.engine}")
        if self.engine == "vllm" and self.temperature > 2:
            raise ValueError(f"temperature is {self.temperature}, and vLLM samples at 2 at most")
        return self

    @model_validator(mode="after")
    def _best(self) -> PPO:
        if self.keep == "best" and self.evaluate_every is None:
            raise ValueError("keep: best compares evaluations: set evaluate_every")
        if self.refusal_limit is not None and self.evaluate_every is None:
            raise ValueError("refusal_limit is looked at in evaluations: set evaluate_every")
        return self

    @model_validator(mode="after")
    def _advantage(self) -> PPO:
        if self.advantage in _BY_GROUP and self.responses_per_prompt < 2:
            raise ValueError(
                f"advantage: {self.advantage} compares the responses to a prompt, and there is 1: set "
                "responses_per_prompt to 2 or more"
            )
        unused = [] if self.has_value_model else [*_OF_VALUE_MODEL]
        unused += ["gamma"] if self.advantage in _BY_GROUP else []
        fields = type(self).model_fields
        if idle := [key for key in unused if getattr(self, key) != fields[key].default]:
            raise ValueError(
                f"{', '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing with advantage: "
                f"{self.advantage}"
                + ("" if idle == ["gamma"] else ", which has no value model")
                + ": take it out, or choose `advantage: gae`"
            )
        return self

    @field_validator("reward_shape", mode="before")
    @classmethod
    def _no_second_clip(cls, shape: Any) -> Any:
        if shape == "clip":
            raise ValueError(
                "scores are cut by score_clip: BOUND; with scale_scores: true it is in units of their spread"
            )
        return shape

    @model_validator(mode="after")
    def _shape(self) -> PPO:
        if self.reward_shape == "none" and self.reference_responses != 1:
            raise ValueError(
                "reference_responses does nothing with reward_shape: none: take it out, or choose "
                "`reward_shape: sigmoid`"
            )
        if self.reward_shape == "sigmoid" and self.score_clip is not None:
            raise ValueError(
                "reward_shape: sigmoid keeps scores between 0 and 1 already: take score_clip out, or choose "
                "`reward_shape: centred`, which it cuts"
            )
        if self.reward_shape == "centred" and self.advantage in _BY_GROUP and self.score_clip is None:
            raise ValueError(
                f"reward_shape: centred does nothing with advantage: {self.advantage}, which compares the "
                "responses to a prompt: set score_clip too, or choose `reward_shape: sigmoid`"
            )
        return self

    @model_validator(mode="after")
    def _sources(self) -> PPO:
        labels = [reward.label for reward in self.rewards or ()]
        if double := [label for i, label in enumerate(labels) if label in labels[:i]]:
            raise ValueError(f"two of rewards are called {double[0]}: give them a name each (`name: …`)")
        own = ["score", "score_std", "total"]
        own += ["disagreement"] if self.reward_reduce != "mean" else []
        own += [] if self.reward_shape == "none" else ["shaped", "shaped_std", "reference"]
        if taken := [label for label in labels if label in own]:
            raise ValueError(f"{taken[0]} is a metric of its own: give that source of rewards another name")
        if self.has_value_model and self.value_init == "reward" and not self.judged_by_model:
            raise ValueError(
                "the value model starts as the reward model, and none is among rewards: set "
                "`value_init: policy`, or an `advantage` without a value model"
            )
        if self.value_model == "shared" and self.value_init == "reward":
            raise ValueError(
                "a head on the policy's adapter cannot start as the reward model, whose adapter is another: "
                "set `value_init: policy`"
            )
        return self

    def with_advantage(self, advantage: str, responses: int) -> PPO:
        """The section with another estimator; what does nothing with it stands at its default.

        responses: to a prompt, where the estimator compares them and the section has one. Raises
        ValidationError where the section then does not go together.
        """
        values = self.model_dump() | {"advantage": advantage}
        unused = [] if advantage == "gae" else [*_OF_VALUE_MODEL]
        if advantage in _BY_GROUP:
            unused.append("gamma")
            if self.responses_per_prompt == 1:
                values["responses_per_prompt"] = responses
            if self.reward_shape == "centred" and self.score_clip is None:
                unused += ["reward_shape", "reference_responses"]
        elif advantage == "gae" and not self.judged_by_model:
            values["value_init"] = "policy"
        return PPO.model_validate({key: value for key, value in values.items() if key not in unused})

    def reference_draws(self, prompts: int | None) -> int:
        """How many responses of the SFT policy reward_shape needs in all iterations; None: prompts enough."""
        if self.reward_shape == "none":
            return 0
        used = self.iterations * self.rollout_batch_size // self.responses_per_prompt
        return self.reference_responses * (used if prompts is None else min(used, prompts))

    @property
    def has_value_model(self) -> bool:
        """Whether advantages are taken from a value model, which is then trained beside the policy."""
        return self.advantage == "gae"

    @property
    def judged_by_model(self) -> bool:
        """Whether a reward model is among the sources of rewards."""
        return self.rewards is None or any(reward.run for reward in self.rewards)

    @property
    def needs_rm(self) -> bool:
        """Whether the reward model of `rm`, or of this run, has to be there."""
        return self.rewards is None or any(reward.run == "this" for reward in self.rewards)
