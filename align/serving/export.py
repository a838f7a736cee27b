"""`align export`: a stage's result as a plain transformers checkpoint, proved before it is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.formats import built_in
from align.data.scan import Located, scan
from align.data.split import side
from align.data.template import response_end
from align.errors import AlignError, UserError
from align.models.batch import Pair, collate
from align.models.forward import Forward
from align.models.merge import (
    check_classifier,
    in_float32,
    merged_policy,
    merged_reward,
    set_end,
    set_padding,
)
from align.models.passes import PAIRS, microbatches, passes
from align.models.roles import Roles
from align.models.scoring import score_pairs
from align.models.text_part import auto_class
from align.recipe.sections import Recipe
from align.records import Ranking
from align.report.safety import card_text
from align.run.files import read_json, to_json, whole_folder, write_text
from align.run.lineage import TEMPLATE_KEYS
from align.run.manifest import ADAPTER
from align.run.progress import say
from align.sampling.engines import open_engine, sampling_params
from align.sampling.params import Draws, Sampled
from align.serving.run import Trained, open_run, reward_model
from align.stage_table import Stage

NOTE, CARD = "align_export.json", "README.md"
_PROBES = 64  # responses that both models score
_ANSWERS, _ANSWER_TOKENS = 4, 12  # what a policy writes, to see where it stops
# The largest difference that may be, as a share of the probes' spread (standard deviation). In bfloat16
# a weight keeps 8 bits: the difference is rounding, and told.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_BUILT_IN = [
    ("How long do I boil an egg?", (" Seven minutes for a soft yolk, ten for a hard one.", " No.")),
    (
        "The story of the two",
        (" friends is warm and honest.", " is a mess that nobody needs, or so it seems to me."),
    ),
    ("Is the bakery open?", (" Yes, until six; after that only by the side door.", " Perhaps.")),
]


@dataclass(frozen=True)
class Proof:
    """How far the export is from the run's own model on the probes."""

    probes: int
    texts: str  # where the probes come from
    difference: float  # the largest
    spread: float  # standard deviation of the run's own numbers


def export(
    run: Path,
    stage: Stage,
    to: Path | None = None,
    dtype: str = "float32",
    base: Path | None = None,
    console: Console | None = None,
    trusted: bool = False,
) -> Path:
    """Write the stage's result as a plain checkpoint into `to` (without it RUN/export/STAGE); returns it.

    rm becomes a sequence classifier with one label, sft and ppo a causal language model: the adapter is
    folded into a copy of the base in float32 and saved as `dtype`. What was written is loaded afresh and
    compared with the run's own model on probes; AlignError, and nothing left, where they differ.
    """
    to = to or run / "export" / stage
    if dtype not in _DTYPES:
        raise UserError(f"--dtype {dtype}: choose one of {', '.join(_DTYPES)}")
    _refuse_taken(to)
    trained = open_run(run, stage, base, trusted)
    if stage == "rm":
        check_classifier(trained.setup.base)
    console = console or Console(stderr=True)
    pairs, texts = _probes(trained)
    own, said = _own(trained, pairs)
    tokenizer = trained.setup.base.tokenizer
    if stage == "rm":
        set_padding(tokenizer)
    with whole_folder(to) as aside:
        kind = _write(trained, tokenizer, dtype, aside)
        model = _loaded(trained, aside)
        fresh = _exported(trained, pairs, model)
        if stage != "rm":
            _check_stops(trained, model, said)
        proof = Proof(len(pairs), texts, float((own - fresh).abs().max()), float(own.std(unbiased=False)))
        _check(proof, dtype)
        write_text(aside / NOTE, to_json(_note(trained, tokenizer, kind, dtype, proof)))
        if stage != "rm":
            write_text(aside / CARD, _card(run, trained))
        size = sum(path.stat().st_size for path in aside.iterdir())
    say(console, f"{stage} of {run} is in {to}: {kind}, {dtype}, {size / 1e6:.0f} MB")
    if trained.recipe.base.quantize:
        say(
            console,
            "it was trained on a base in four bits; the export, and the model that it is compared with, "
            "have the base's whole weights, so they differ from the run by what four bits lose",
        )
    for remark in trained.setup.template.remarks():
        say(console, remark)
    if trained.recipe.data.chat_template_kwargs:
        say(
            console,
            "the export's own chat template has these as its defaults: plain transformers writes the same",
        )
    what = "scores" if stage == "rm" else "log probabilities"
    if stage != "rm":
        stop = tokenizer.convert_ids_to_tokens(response_end(tokenizer))
        say(console, f"plain generate() stops where the run's own sampler does: at {stop!r}")
    say(
        console,
        f"loaded afresh, it gives the same {what} as the run on {proof.probes} responses ({proof.texts}): "
        f"largest difference {proof.difference:.2g}, {proof.difference / proof.spread:.1g} of their standard "
        "deviation",
    )
    return to


def _refuse_taken(to: Path) -> None:
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise UserError(f"{to} exists and is not a folder: choose another with --to")
    if to.is_dir() and any(to.iterdir()):
        raise UserError(f"{to} is not empty: remove it, or choose another folder with --to")


def _probes(run: Trained) -> tuple[list[Pair], str]:
    """The ids of some prompts with responses, and where they come from."""
    template, longest = run.setup.template, run.recipe.rm.max_length
    name, rankings = _rankings(run.recipe)
    pairs: list[Pair] = []
    for ranking in islice(rankings, _PROBES):
        try:
            prompt = template.prompt_ids(ranking.prompt)
            responses = [template.response_ids(response) for response in ranking.responses]
        except UserError:  # the data has changed since; other rankings serve as well
            continue
        pairs += [(prompt, ids) for ids in responses if len(prompt) + len(ids) <= longest]
    if not pairs:
        name = "built-in texts; the run's rankings cannot be read here"
        pairs = [
            (template.prompt_ids(prompt), template.response_ids(response))
            for prompt, responses in _BUILT_IN
            for response in responses
        ]
    return pairs[:_PROBES], name


def _rankings(recipe: Recipe) -> tuple[str, Iterator[Ranking]]:
    """Where rankings for probes come from, and these; none where their files are not on this machine.

    Formats that are plug-ins, and labeling databases, are left out: they are a run's to open, not ours.
    """
    source = recipe.data.rankings
    if source is None:
        return "", iter(())
    apart = isinstance(source.held_out, list)
    share = 0.0 if isinstance(source.held_out, list) else source.held_out
    entries = source.held_out if isinstance(source.held_out, list) else source.train
    local = [
        entry for entry in entries if not entry.may_be_hub_id and (not entry.format or built_in(entry.format))
    ]
    found = scan(Ranking, local, source.split_key)
    name = "of held-out rankings" if apart or share else "of training rankings"
    return name, (
        part.record
        for part in found
        if isinstance(part, Located) and (not share or side(part.key, share) == "held_out")
    )


@torch.no_grad()
def _own(run: Trained, pairs: list[Pair]) -> tuple[Tensor, list[Sampled]]:
    """The run's own numbers, its adapter unmerged on the base in float32: see `_exported`. Of a policy, also
    what it answers to some prompts."""
    base, tokens = in_float32(run.setup.base), run.recipe.rm.microbatch_tokens
    if run.stage == "rm":
        return score_pairs(reward_model(run, base), "reward", pairs, tokens), []
    roles = Roles(base.load_model(run.setup.accel.device))
    roles.add("policy", run.final, trains=False)
    forward = Forward(roles)
    found = []
    for part in passes(roles, pairs, tokens, PAIRS):
        logprobs, _, mask = forward.logprobs("policy", forward.prefix(collate(part.items)), 1.0)
        found.append((part.rows, [row[m].cpu() for row, m in zip(logprobs, mask, strict=True)]))
    prompts = [prompt for prompt, _ in pairs[:_ANSWERS]]
    params = replace(sampling_params(run.recipe.ppo, base), max_tokens=_ANSWER_TOKENS, min_tokens=0)
    draws = Draws(run.recipe.run.seed, "export", 0, list(range(len(prompts))))
    engine = open_engine("hf", roles, run.setup.accel)
    return _in_order(found), engine.sample(prompts, draws, params)


def _loaded(run: Trained, folder: Path) -> PreTrainedModel:
    """An export's model, from its files alone, in float32."""
    model: PreTrainedModel
    auto = AutoModelForSequenceClassification if run.stage == "rm" else auto_class(run.setup.base.config)
    model, found = auto.from_pretrained(
        folder,
        dtype=torch.float32,  # as the run's own numbers; CPUs are slow in anything else
        trust_remote_code=run.recipe.base.trust_remote_code,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    if wrong := sorted([*found["missing_keys"], *found["unexpected_keys"]]):
        raise AlignError(f"the export does not load as it was written ({wrong[0]}); nothing was kept")
    return model.to(run.setup.accel.device).eval()


@torch.no_grad()
def _exported(run: Trained, pairs: list[Pair], model: PreTrainedModel) -> Tensor:
    """A score for each pair, or the log probability of each response token, by an export's model."""
    pad_id = model.config.pad_token_id if run.stage == "rm" else 0  # a classifier finds the end by its ids
    results = []
    for part in microbatches([PAIRS.size(pair) for pair in pairs], run.recipe.rm.microbatch_tokens):
        batch = collate([pairs[i] for i in part], pad_id)
        ids, mask = batch.input_ids.to(model.device), batch.attention_mask.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().cpu()
        if run.stage == "rm":
            results.append((part, logits[:, 0]))
            continue
        logprobs = logits[:, :-1].log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]
        ends = zip(logprobs, batch.prompt_lengths.tolist(), batch.lengths.tolist(), strict=True)
        results.append((part, [row[start - 1 : end - 1] for row, start, end in ends]))
    return _in_order(results)


@torch.no_grad()
def _check_stops(run: Trained, model: PreTrainedModel, said: list[Sampled]) -> None:
    """Raise AlignError unless plain `generate` stops where align's own sampler does.

    The tokens that the run's policy sampled are dictated to it, for two models that differ by rounding may
    draw others. It has to go on to the end of a response, past whatever else the base calls an end, and then
    to stop by itself.
    """
    end = response_end(run.setup.base.tokenizer)
    spoken = [(one.prompt, one.response if one.response[-1] == end else [*one.response, end]) for one in said]
    spoken += [(said[0].prompt, [other, end]) for other in run.setup.base.other_ends]
    for prompt, response in spoken:
        ids = torch.tensor([prompt], device=model.device)
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=len(response) + 1,
            do_sample=False,
            logits_processor=LogitsProcessorList([_Dictated(len(prompt), response)]),
        )[0, len(prompt) :].tolist()
        if written != response:
            names = run.setup.base.tokenizer.convert_ids_to_tokens([written[-1], end])
            raise AlignError(
                f"plain generate() on the export does not stop where the run's own sampler does: after "
                f"{len(written)} tokens, at {names[0]!r}, where a response of {len(response)} ends with "
                f"{names[1]!r}. Nothing was kept"
            )


class _Dictated(LogitsProcessor):
    """Lets `generate` write these tokens, and after them the first one again and again."""

    def __init__(self, start: int, tokens: list[int]) -> None:
        self._start, self._tokens = start, tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        done = input_ids.shape[1] - self._start
        token = self._tokens[done if done < len(self._tokens) else 0]
        forced = torch.full_like(scores, float("-inf"))
        forced[:, token] = 0.0
        return forced


def _in_order(results: list[tuple[list[int], Any]]) -> Tensor:
    """Numbers of batches, back in the order of the pairs and end to end."""
    found = {i: value.reshape(-1) for part, values in results for i, value in zip(part, values, strict=True)}
    return torch.cat([found[i] for i in range(len(found))])


def _write(run: Trained, tokenizer: PreTrainedTokenizerBase, dtype: str, folder: Path) -> str:
    """Fill the folder; returns the model's class."""
    model: PreTrainedModel
    if run.stage == "rm":
        model = merged_reward(run.setup.base, run.final, tokenizer)
    else:
        model = merged_policy(run.setup.base, run.final)
        set_end(model, run.setup.base)
    model.to(_DTYPES[dtype]).save_pretrained(folder)
    run.setup.template.save_tokenizer(folder)
    return type(model).__name__


def _check(proof: Proof, dtype: str) -> None:
    # `not <=` also catches nan.
    if not proof.difference <= _TOLERANCE[dtype] * proof.spread:
        raise AlignError(
            f"the export does not give what the run's own model gives: {proof.probes} responses "
            f"({proof.texts}) differ by up to {proof.difference:.3g}, where their standard deviation is "
            f"{proof.spread:.3g}. Nothing was kept"
        )


def _card(folder: Path, run: Trained) -> str:
    """A model card: what the policy was made of, and what is known of its safety."""
    return "\n".join(
        [
            f"# {folder.resolve().name}: the policy after {run.stage}",
            "",
            f"The base {Path(run.recipe.base.name).name} with the adapter of `{run.stage}` folded in. {NOTE} "
            "has hashes, template and results.",
            "",
            _safety(folder, run),
        ]
    )


def _safety(folder: Path, run: Trained) -> str:
    """The safety card of this policy, where `align evaluate` measured these very weights."""
    try:
        document = read_json(folder / "evaluation" / "evaluation.json")
        digest = document["safety"]["origins"][run.stage].rpartition(" ")[2]
        if digest and run.manifest.final[ADAPTER].startswith(digest):
            return card_text(document, run.stage)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AlignError):
        pass  # nobody has measured it, or what is there cannot be understood
    return card_text({}, run.stage)


def _note(
    run: Trained, tokenizer: PreTrainedTokenizerBase, kind: str, dtype: str, proof: Proof
) -> dict[str, Any]:
    """What a person who finds the folder wants to know."""
    return {
        "stage": run.stage,
        "model": kind,
        "dtype": dtype,
        **{key: getattr(run.recipe.data, key) for key in TEMPLATE_KEYS},
        "written_around_a_response": list(run.setup.template.around_response),
        "padding": tokenizer.pad_token,
        "responses_end_with": tokenizer.convert_ids_to_tokens(response_end(tokenizer)),
        "base": run.recipe.base.name,
        "lineage": run.manifest.lineage,
        "files": run.manifest.final,
        "results": run.manifest.results,
        "proof": {
            "responses": proof.probes,
            "texts": proof.texts,
            "largest_difference": proof.difference,
            "standard_deviation": proof.spread,
        },
    }
