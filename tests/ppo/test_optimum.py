"""PPO against closed forms: for responses that can all be listed, the optimum is known exactly.

The objective E_pi[r(x, y)] - beta KL(pi || pi_ref) is highest at pi*(y|x) = pi_ref(y|x) exp(r(x, y) / beta)
/ Z(x), where it is beta log Z(x) (Ziegler et al. 2019, 1909.08593; Korbak et al. 2022, 2205.11275).
The stage's own code trains; nothing of it is replaced. By default one run of a minute or two; all fifteen:
`pytest -s -m "slow or not slow" tests/ppo/test_optimum.py`.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from align.models.adapters import save_adapter
from align.models.batch import collate
from align.models.lora import lora_config
from align.models.roles import Roles
from align.objectives.gae import gae
from align.objectives.ppo import policy_loss, token_rewards
from align.ppo import train as ppo
from align.ppo.roles import Context, prepare
from align.recipe.load import load_recipe
from align.rewards.rewards import find_sources
from align.run.folder import open_stage
from align.stages.frame import set_up

WORDS = list("abcdefghijk")  # with <eos> a vocabulary of 12
LENGTH = 3
PROMPT = "a b"
EOS = 0
# beta -> learning rate and iterations: the larger beta, the smaller what is to be gained beside the scores'
# spread, and the more of the sampling's noise the last updates have to average away.
BETAS = {0.4: (3e-3, 80), 0.7: (1e-3, 250), 1.2: (1e-3, 200)}
# At beta 1.2 seed 3 draws a problem whose optimum lies 0.26 nats away, less than is asked below.
SEEDS = {0.4: (0, 1, 2, 3, 4), 0.7: (0, 1, 2, 3, 4), 1.2: (0, 1, 2, 4, 5)}
COVERED = 0.97

FUNCTION = """
import json
from pathlib import Path

TABLE = json.loads((Path(__file__).parent / "table.json").read_text())


def look_up(prompts, responses):
    assert set(prompts) == {"a b"}
    return [TABLE[response] for response in responses]
"""


def make_base(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<eos>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=16,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=None,
            tie_word_embeddings=False,
            initializer_range=0.5,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def all_responses() -> list[list[int]]:
    """Every response: up to LENGTH - 1 words and EOS, or LENGTH words that the limit cut."""
    words = range(1, len(WORDS) + 1)
    ended = [[*w, EOS] for n in range(LENGTH) for w in itertools.product(words, repeat=n)]
    return ended + [list(w) for w in itertools.product(words, repeat=LENGTH)]


def text(response: list[int]) -> str:
    return " ".join(WORDS[i - 1] for i in response if i != EOS)


@dataclass
class Bandit:
    """One training run, and what is known exactly of its problem."""

    context: Context
    prompts: list[list[int]]
    responses: list[list[int]]
    scores: Tensor  # [N] float64
    beta: float
    recipe_path: Path

    def logprobs(self, role: str) -> tuple[Tensor, Tensor]:
        """Log probabilities [N, T] and mask of all responses, with the role's gradient where it has one."""
        forward = self.context.forward
        prefix = forward.prefix(collate([(self.prompts[0], r) for r in self.responses], EOS))
        found, _, mask = forward.logprobs(role, prefix, 1.0)
        return found, mask

    def whole(self, role: str) -> Tensor:
        """log p(y|x) [N]."""
        with torch.no_grad():
            found = self.logprobs(role)[0].double().sum(1)
        assert abs(float(found.exp().sum()) - 1) < 1e-4, "the responses are not all, or not distinct"
        return found

    def objective(self, policy: Tensor, reference: Tensor) -> float:
        return float((policy.exp() * (self.scores - self.beta * (policy - reference))).sum())

    def optimum(self, reference: Tensor) -> tuple[Tensor, float]:
        """log pi* [N] and the value beta log Z."""
        tilted = reference + self.scores / self.beta
        return tilted - tilted.logsumexp(0), self.beta * float(tilted.logsumexp(0))


def make_bandit(folder: Path, beta: float, seed: int, **ppo_fields: object) -> Bandit:
    make_base(folder / "base")
    responses = all_responses()
    scores = torch.randn(len(responses), generator=torch.Generator().manual_seed(seed + 1))
    module = f"table_{folder.name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(FUNCTION)
    table = {text(r): s for r, s in zip(responses, scores.tolist(), strict=True)}
    assert len(table) == len(responses)
    (folder / "table.json").write_text(json.dumps(table))
    fields = {
        "rewards": [{"function": f"{module}:look_up"}],
        "kl_coef": beta,
        "missing_eos_penalty": 0.0,
        "max_prompt_tokens": 4,
        "max_response_tokens": LENGTH,
        "iterations": 50,
        "rollout_batch_size": 1024,
        "minibatch_size": 512,
        "microbatch_tokens": 8192,
        "ppo_epochs": 2,
        "learning_rate": 3e-3,
        "schedule": "linear",
        "warmup": 0.02,
        **ppo_fields,
    }
    if fields.get("advantage", "gae") == "gae":
        fields = {"value_clip_range": 10.0, "value_init": "policy", "gae_lambda": 1.0, **fields}
    path = folder / "recipe.yaml"
    path.write_text(
        json.dumps(
            {
                "base": {"name": str(folder / "base")},
                "run": {"name": "optimum", "folder": str(folder / "runs"), "threads": 1, "seed": seed},
                "data": {"template": "plain"},
                "lora": {"rank": 32, "alpha": 32, "targets": "all-linear"},
                "ppo": fields,
            }
        )
    )
    recipe = load_recipe(path)
    setup = set_up(recipe)
    fresh = Roles(setup.base.load_model(setup.accel.device))
    torch.manual_seed(seed)
    fresh.add("policy", lora_config(recipe.lora, fresh.base), trains=True)
    assert fresh.peft is not None
    save_adapter(fresh.peft, "policy", folder / "sft")
    context = prepare(recipe, setup, folder / "sft", find_sources(recipe, setup.lineage))
    prompts = [setup.template.prompt_ids(PROMPT)]
    return Bandit(context, prompts, responses, scores.double(), beta, path)


def train(bandit: Bandit) -> None:
    recipe = load_recipe(bandit.recipe_path)
    context = bandit.context
    with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
        for iteration in range(context.cfg.iterations):
            metrics = ppo.iterate(context, stage, bandit.prompts, iteration).metrics
            if iteration % 20 == 0 and "-v" in sys.argv:
                print(iteration, {k: round(v, 4) for k, v in metrics.items() if "seconds" not in k})


def covered(bandit: Bandit) -> tuple[float, float, float, float]:
    """The share of the way from reference to optimum, and KL(pi||pi*), KL(pi||ref), KL(pi*||ref)."""
    reference, policy = bandit.whole("reference"), bandit.whole("policy")
    best, value = bandit.optimum(reference)
    start = float((reference.exp() * bandit.scores).sum())
    share = (bandit.objective(policy, reference) - start) / (value - start)

    def kl(p: Tensor, q: Tensor) -> float:
        return float((p.exp() * (p - q)).sum())

    return share, kl(policy, best), kl(policy, reference), kl(best, reference)


CASES = [
    pytest.param(
        beta, seed, marks=[pytest.mark.slow] if seed or beta != 0.4 else [], id=f"beta-{beta}-seed-{seed}"
    )
    for beta in BETAS
    for seed in SEEDS[beta]
]


@pytest.mark.parametrize(("beta", "seed"), CASES)
def test_the_policy_arrives_at_the_optimum(tmp_path: Path, beta: float, seed: int) -> None:
    rate, iterations = BETAS[beta]
    bandit = make_bandit(tmp_path, beta, seed, learning_rate=rate, iterations=iterations)
    train(bandit)
    share, to_best, moved, far = covered(bandit)
    print(
        f"beta {beta} seed {seed}: {share:.2%} of the way; KL to the optimum {to_best:.4f}, to the reference "
        f"{moved:.3f} (the optimum's: {far:.3f})"
    )
    assert 0.3 <= far <= 4, "a problem whose optimum is the reference shows nothing"
    assert share >= COVERED


@pytest.mark.parametrize(
    "advantage",
    ["rloo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("group", "reinforce++"))],
)
def test_it_arrives_without_a_value_model(tmp_path: Path, advantage: str) -> None:
    rate, iterations = BETAS[0.4]
    each = 1 if advantage == "reinforce++" else 8
    fields = {"advantage": advantage, "responses_per_prompt": each, "learning_rate": rate}
    bandit = make_bandit(tmp_path, 0.4, 0, iterations=iterations, **fields)
    train(bandit)
    share, to_best, moved, far = covered(bandit)
    print(
        f"{advantage}: {share:.2%} of the way; KL to the optimum {to_best:.4f}, to the reference {moved:.3f}"
    )
    assert share >= COVERED
    assert far > 0.3


# The same problem, without training


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Bandit:
    """A policy that is neither the reference nor the optimum."""
    bandit = make_bandit(tmp_path_factory.mktemp("moved"), 0.7, 0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in bandit.context.forward.roles.parameters_of("policy").values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return bandit


def _returns(bandit: Bandit) -> Tensor:
    """What the objective adds up over each response [N]: its score minus beta times its log ratio."""
    return bandit.scores - bandit.beta * (bandit.whole("policy") - bandit.whole("reference"))


def _perfect_values(bandit: Bandit, returns: Tensor, mask: Tensor) -> Tensor:
    """What is still to come before each token [N, T], expected over all responses that begin so."""
    logprobs = bandit.logprobs("policy")[0].detach().double()
    penalties = bandit.beta * (logprobs - bandit.logprobs("reference")[0].detach().double())
    weight = logprobs.sum(1).exp()
    sums: dict[tuple[int, ...], list[float]] = {}
    for n, response in enumerate(bandit.responses):
        for t in range(len(response)):
            so_far = float(penalties[n, :t].sum())
            entry = sums.setdefault(tuple(response[:t]), [0.0, 0.0])
            entry[0] += float(weight[n]) * (float(returns[n]) + so_far)
            entry[1] += float(weight[n])
    values = torch.zeros(mask.shape, dtype=torch.float64)
    for n, response in enumerate(bandit.responses):
        for t in range(len(response)):
            total, mass = sums[tuple(response[:t])]
            values[n, t] = total / mass
    return values


def test_gae_with_perfect_values_is_the_monte_carlo_advantage(moved: Bandit) -> None:
    """lambda 1, gamma 1: what came minus what was to be expected; and its mean over next tokens is 0."""
    logprobs, mask = (x.detach() for x in moved.logprobs("policy"))
    reference = moved.logprobs("reference")[0].detach()
    returns = _returns(moved)
    values = _perfect_values(moved, returns, mask)
    rewards = token_rewards(moved.scores, logprobs.double(), reference.double(), mask, moved.beta)
    advantages, targets = gae(rewards, values, mask, 1.0, 1.0)
    to_go = torch.zeros_like(values)
    for n, response in enumerate(moved.responses):
        paid = moved.beta * (logprobs[n] - reference[n]).double()
        for t in range(len(response)):
            to_go[n, t] = moved.scores[n] - paid[t : len(response)].sum()
    torch.testing.assert_close(advantages, (to_go - values) * mask, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(targets, to_go * mask, rtol=1e-5, atol=1e-5)
    weight = logprobs.double().sum(1).exp()
    assert abs(float((weight * advantages[:, 0]).sum())) < 1e-4
    assert float(advantages.abs().max()) > 0.5


def test_the_gradient_of_the_ppo_loss_is_that_of_the_objective(moved: Bandit) -> None:
    """At ratio 1, over all responses by their probability: autograd and finite differences say the same."""
    roles = moved.context.forward.roles
    parameters = list(roles.parameters_of("policy").values())
    logprobs, mask = moved.logprobs("policy")
    weight = logprobs.detach().double().sum(1).exp()
    reference = moved.logprobs("reference")[0].detach()
    returns = _returns(moved)
    values = _perfect_values(moved, returns, mask)
    rewards = token_rewards(moved.scores, logprobs.detach().double(), reference.double(), mask, moved.beta)
    advantages, _ = gae(rewards, values, mask, 1.0, 1.0)
    logprobs, mask = moved.logprobs("policy")
    # Each response as often as it is probable: the loss is linear in the advantages.
    loss, _ = policy_loss(
        logprobs, logprobs.detach(), (advantages * weight[:, None]).float(), mask, 0.2, count=1
    )
    ppo_gradient = [-g.double() for g in torch.autograd.grad(loss, parameters)]

    def objective() -> Tensor:
        whole = moved.logprobs("policy")[0].double().sum(1)
        gain = moved.scores - moved.beta * (whole - reference.double().sum(1))
        return (whole.exp() * gain).sum()

    exact = torch.autograd.grad(objective(), parameters)
    size = math.sqrt(sum(float(g.double().square().sum()) for g in exact))
    apart = math.sqrt(
        sum(float((a - b.double()).square().sum()) for a, b in zip(ppo_gradient, exact, strict=True))
    )
    assert size > 0.1
    assert apart < 1e-3 * size
    step = 1e-3
    with torch.no_grad():
        found = []
        for sign in (1, -1):
            for parameter, slope in zip(parameters, exact, strict=True):
                parameter.add_(slope, alpha=sign * step / size)
            found.append(float(objective()))
            for parameter, slope in zip(parameters, exact, strict=True):
                parameter.add_(slope, alpha=-sign * step / size)
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(size, rel=1e-2)
