"""RLHF on one page: demonstrations -> SFT -> people's rankings -> a reward model -> PPO.

    python docs/teach.py        # about 15 seconds on one CPU core, the same numbers each time

The language is a toy. A prompt is "the film is", a response "very loud and warm ." Who writes demonstrations
uses any word for any thing. Who ranks responses likes some words for some things: a film that is warm, music
that is loud. Only the rankings know that, and to find out one has to read both prompt and response.

The page reads from top to bottom and uses nothing of ours but align/objectives/, the mathematics with which
`align rm` and `align ppo` train. Each part ends with what the real ones do beyond it, and where.
"""

import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align.objectives.bradley_terry import batch_loss, pair_accuracy
from align.objectives.gae import gae
from align.objectives.kl import k1
from align.objectives.masked import masked_mean, masked_sum, whiten
from align.objectives.ppo import policy_loss, token_rewards, value_loss

torch.manual_seed(0)
torch.set_num_threads(1)

# ------------------------------------------------------------------------------------------------------------
# The world: words, people, and what they like

LIKED = {"film": "warm funny", "plot": "slow clever", "cast": "young honest", "music": "loud bright"}
ADJECTIVES = " ".join(LIKED.values()).split()
WORDS = ["<pad>", ".", "the", "is", "and", "very", *LIKED, *ADJECTIVES]
ID = {word: i for i, word in enumerate(WORDS)}
PAD, EOS = ID["<pad>"], ID["."]
P, T = 3, 6  # tokens of a prompt, and of a response at most


def one_of(things):
    return things[int(torch.randint(len(things), ()))]


def prompts(count):
    """[B, P]: "the film is", "the cast is", ..."""
    return torch.tensor([[ID["the"], ID[one_of([*LIKED])], ID["is"]] for _ in range(count)])


def demonstrations(count):
    """[B, P + T]: prompts and what somebody wrote: one adjective or two, any. Padded on the right."""
    rows = torch.full((count, P + T), PAD)
    rows[:, :P] = prompts(count)
    for row in rows:
        parts = [one_of(["", "very "]) + one_of(ADJECTIVES) for _ in range(one_of([1, 2]))]
        words = " and ".join(parts).split() + ["."]
        row[P : P + len(words)] = torch.tensor([ID[word] for word in words])
    return rows


def liking(row):
    """The share of a response's adjectives that people like for this thing. Longer is not better."""
    said = [WORDS[i] for i in row[P:] if WORDS[i] in ADJECTIVES]
    return sum(word in LIKED[WORDS[row[1]]].split() for word in said) / max(len(said), 1)


def mean_liking(rows):
    return sum(map(liking, rows)) / len(rows)


def text(row):
    return " ".join(WORDS[i] for i in row if i != PAD)


# ------------------------------------------------------------------------------------------------------------
# What a language model is asked. B rows of P + T tokens. Padding stands on the right, where a causal model
# does not look from the left, so no attention mask is needed.


def response_mask(rows):
    """[B, T]: True at the response's tokens: up to the first "." and with it."""
    ends = (rows[:, P:] == EOS).int()
    return ends.cumsum(1) - ends == 0


def logprobs(model, rows):
    """[B, T]: log pi(y_t | x, y_<t), the log probability of each response token."""
    logits = model(rows).logits[:, P - 1 : -1]  # the logits at a place are for the token after it
    return logits.log_softmax(-1).gather(-1, rows[:, P:, None]).squeeze(-1)


def scalars(model, head, rows):
    """[B, P + T]: a number at each token, from the hidden state there: what reward and value models are."""
    return head(model.model(rows).last_hidden_state).squeeze(-1)


def scores(model, head, rows):
    """[B]: r(x, y), the number at the response's last token."""
    last = P + response_mask(rows).sum(1) - 1
    return scalars(model, head, rows).gather(1, last[:, None]).squeeze(1)


def values(model, head, rows):
    """[B, T]: V(x, y_<t), the reward that is still to come, told before token t is drawn."""
    return scalars(model, head, rows)[:, P - 1 : -1]


@torch.no_grad()
def sample(model, asked):
    """[B, P + T]: a response to each prompt, token by token: y_t ~ pi(. | x, y_<t)."""
    rows = asked
    for _ in range(T):
        drawn = torch.multinomial(model(rows).logits[:, -1].softmax(-1), 1)
        rows = torch.cat([rows, drawn], 1)
    rows[:, P:][~response_mask(rows)] = PAD
    return rows


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# ------------------------------------------------------------------------------------------------------------
# The base: a Llama of two layers that knows nothing yet. (A real one is pretrained: align/models/base.py.)

size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
base = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=P + T, **size))

# ------------------------------------------------------------------------------------------------------------
# 1. Supervised fine-tuning: make what people wrote likely.
#
#        L = - mean over tokens t of log pi(y_t | x, y_<t)
#
# Beyond this page: TRL's trainer (align/stages/sft.py), LoRA adapters instead of whole models
# (align/models/lora.py), chat templates (align/data/template.py).

policy = copy.deepcopy(base)
held_out = demonstrations(500)


@torch.no_grad()
def held_out_loss():
    return -masked_mean(logprobs(policy, held_out), response_mask(held_out)).item()


optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
before = held_out_loss()
for _ in range(100):
    rows = demonstrations(64)
    step(optimizer, -masked_mean(logprobs(policy, rows), response_mask(rows)))
print(f"SFT           held-out loss {before:.2f} -> {held_out_loss():.2f} nats a token")

# ------------------------------------------------------------------------------------------------------------
# 2. The reward model. People rank K responses to a prompt: 1 is best, equal numbers are ties. Of a pair, the
#    better one y_w wins by Bradley and Terry with P(y_w beats y_l) = sigmoid(r(x, y_w) - r(x, y_l)), so
#    (InstructGPT, 2203.02155, equation 1)
#
#        L = - mean over rankings of the mean over their pairs of log sigmoid(r(x, y_w) - r(x, y_l))
#
# Beyond this page: a ranking's responses share one pass over their prompt (align/models/packed.py), scores
# are centred, and their deviation kept (align/stages/centring.py), calibration
# (align/evaluation/calibration.py).

K = 4
reference = copy.deepcopy(policy).requires_grad_(False)  # the SFT policy, which never changes again


def rankings(count):
    """Responses of the SFT policy to `count` prompts, [count, K, P + T], and their ranks by people."""
    rows = sample(reference, prompts(count).repeat_interleave(K, 0))
    liked = torch.tensor([liking(row) for row in rows]).view(count, K)
    return rows.view(count, K, -1), [[1 + int((own > one).sum()) for one in own] for own in liked]


@torch.no_grad()
def accuracy(rows, ranks):
    """The share of pairs that the reward model orders as people did."""
    told = scores(rm, rm_head, rows.flatten(0, 1)).view(-1, K)
    right, pairs = zip(*map(pair_accuracy, told, ranks), strict=True)
    return sum(right) / sum(pairs)


rm, rm_head = copy.deepcopy(policy), torch.nn.Linear(64, 1)
optimizer = torch.optim.AdamW([*rm.parameters(), *rm_head.parameters()], lr=3e-3)
held_out, (ranked, ranks) = rankings(250), rankings(1000)
before = accuracy(*held_out)
for _ in range(140):
    part = torch.randperm(1000)[:32]
    told = scores(rm, rm_head, ranked[part].flatten(0, 1)).view(-1, K)
    step(optimizer, batch_loss(list(told), [ranks[i] for i in part]))
print(f"reward model  held-out pairs ordered as people did {before:.0%} -> {accuracy(*held_out):.0%}")

# ------------------------------------------------------------------------------------------------------------
# 3. PPO: raise the score of what the policy itself says, and stay near the SFT policy:
#
#        maximise  E [ r(x, y) ] - beta KL(pi || pi_SFT)
#
# Beyond this page: one frozen base with four adapters instead of four models (align/models/roles.py), layers
# below the adapters run once (align/models/forward.py), faster engines (align/sampling/engines.py), a beta
# that steers itself and limits (align/ppo/safety.py), a guard against over-optimisation
# (align/ppo/monitor.py), advantages without a value model (align/objectives/group.py), checkpoints
# (align/run/checkpoint.py), many GPUs (align/processes/distributed.py).

BETA, CLIP = 0.3, 0.2
value, value_head = copy.deepcopy(rm), copy.deepcopy(rm_head)  # the value model starts as the reward model
optimizer = torch.optim.AdamW([*policy.parameters(), *value.parameters(), *value_head.parameters()], lr=1e-3)
asked = prompts(256)
was = sample(policy, asked)
with torch.no_grad():
    usual = scores(
        rm, rm_head, was
    )  # only differences of scores mean anything: mean 0, deviation 1 from here

for iteration in range(31):
    # Respond, and keep of the rollout all numbers that the update compares with.
    rows = sample(policy, prompts(128))
    mask = response_mask(rows)
    with torch.no_grad():
        old, ref = logprobs(policy, rows), logprobs(reference, rows)
        expected = values(value, value_head, rows)
        score = (scores(rm, rm_head, rows) - usual.mean()) / usual.std()

    # Reward each token: R_t = - beta log(pi(y_t) / pi_SFT(y_t)), and r(x, y) on top at the last one.
    rewards = token_rewards(score, old, ref, mask, BETA)

    # Advantages (1506.02438): delta_t = R_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lambda A_{t+1}.
    # The value model is to say A_t + V_t. Whitened advantages have mean 0 and variance 1.
    advantages, returns = gae(rewards, expected, mask, gamma=1.0, lam=0.95)
    advantages = whiten(advantages, mask)

    if iteration % 10 == 0:
        kl, length = masked_sum(k1(old, ref), mask, dim=1).mean(), mask.sum(1).float().mean()
        print(
            f"PPO {iteration:3}       score {score.mean():5.2f}, liked by people {mean_liking(rows):4.0%}, "
            f"KL to SFT {kl:4.2f} nats, {length:.1f} tokens"
        )

    # Update, twice over the rollout in minibatches (1707.06347, equation 7):
    #     ratio_t = pi(y_t) / pi_old(y_t),    L = - mean of min(ratio_t A_t, clip(ratio_t, 1 - c, 1 + c) A_t)
    # and the value model's squared error, clipped likewise.
    for part in [*torch.randperm(128).split(32), *torch.randperm(128).split(32)]:
        count = int(mask[part].sum())
        new = logprobs(policy, rows[part])
        surrogate, _ = policy_loss(new, old[part], advantages[part], mask[part], CLIP, count)
        now = values(value, value_head, rows[part])
        error, _ = value_loss(now, expected[part], returns[part], mask[part], CLIP, count)
        step(optimizer, surrogate + 0.5 * error)

# ------------------------------------------------------------------------------------------------------------
# What changed: the same prompts, before and after.

rows = sample(policy, asked)
print(f"liked by people {mean_liking(was):.0%} after SFT -> {mean_liking(rows):.0%} after PPO\n")
for one, other in list(zip(was, rows, strict=True))[:6]:
    print(f"    {text(one):42} ->  {text(other)}")
