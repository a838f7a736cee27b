"""The lean decoder draws the same tokens as transformers' own passes, with few kernels and few waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig
from tiny_bases import SMALL, tiny_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from align.models import lean_decoder
from align.models.batch import collate
from align.models.forward import Forward
from align.models.roles import Roles
from align.processes.distributed import accelerator
from align.recipe.ppo import PPO
from align.sampling import lean as lean_sampling
from align.sampling.cache import Ways
from align.sampling.engines import open_engine
from align.sampling.lean import Lean, find_lean, with_graphs
from align.sampling.params import Draws, Sampled, SamplingParams
from align.sampling.sampler import Hf

PARAMS = SamplingParams(1.0, 1, 0, max_tokens=20, batch_tokens=1000)
PROMPTS = [[5, 6, 7], [5, 6, 7], [8], [9, 10, 11, 12, 13] * 7, [14, 15], [16, 17, 18], [16, 17, 18]]
KINDS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "mistral": lambda: hf.MistralConfig(**SMALL, sliding_window=None),
    "qwen2": lambda: hf.Qwen2Config(**SMALL),
    "qwen3": lambda: hf.Qwen3Config(**SMALL, head_dim=16),
}


def _roles(kind: str = "llama", targets: Any = "all-linear", dtype: torch.dtype = torch.float32) -> Roles:
    roles = Roles(tiny_model(KINDS[kind](), 64).to(dtype))
    for role in ("policy", "reference"):
        torch.manual_seed(len(role))
        config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        roles.add(role, config, trains=role == "policy")
        for parameter in roles.parameters_of(role).values():
            parameter.data = parameter.data.float().normal_(std=0.2)
    roles.prove_logits()  # by passes of its own, which no test counts
    return roles


def _sample(engine: Hf, params: SamplingParams = PARAMS, role: str = "policy") -> list[Sampled]:
    return engine.sample(PROMPTS, Draws(3, "test", 0, list(range(len(PROMPTS)))), params, role)


def _uneven(roles: Roles) -> SamplingParams:
    """Parameters by which responses end at different times."""
    free = _sample(Hf(roles))
    eos = max(range(2, 64), key=lambda t: sum(t in one.response[1:-1] for one in free))
    assert len({len(one.response) for one in _sample(Hf(roles), replace(PARAMS, eos_id=eos))}) > 2
    return replace(PARAMS, eos_id=eos)


def _same(found: list[Sampled], expected: list[Sampled]) -> None:
    assert [one.response for one in found] == [one.response for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.prompt == other.prompt
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_the_models_own_passes(kind: str, merge: bool) -> None:
    roles = _roles(kind)
    params = _uneven(roles)
    for changed in (
        params,
        replace(params, batch_tokens=90, min_tokens=4),
        replace(params, temperature=0.7, top_k=20, top_p=0.9),
    ):
        for role in ("policy", "reference"):
            expected = _sample(Hf(roles), changed, role)
            _same(_sample(Hf(roles, lean=Lean(merge)), changed, role), expected)
    assert _sample(Hf(roles), params) != _sample(Hf(roles), params, "reference")


def test_adapters_on_some_matrices_or_none() -> None:
    for targets in (["q_proj", "down_proj"], ["v_proj", "up_proj"]):
        roles = _roles("qwen2", targets)
        for merge in (False, True):
            _same(_sample(Hf(roles, lean=Lean(merge))), _sample(Hf(roles)))
    alone = Roles(tiny_model(KINDS["llama"](), 64))
    alone.share("policy", "base", trains=False)
    _same(_sample(Hf(alone, lean=Lean(True))), _sample(Hf(alone)))


def test_prompts_are_read_in_pieces_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = _roles()
    monkeypatch.setattr(lean_decoder, "_PROMPT_TOKENS", 80)  # two rows of 35
    _same(_sample(Hf(roles, lean=Lean(False))), _sample(Hf(roles)))


@pytest.mark.parametrize("every", [3, 16, 100])
@pytest.mark.parametrize("lean", [None, Lean(True)])
def test_looking_seldom_changes_no_token(lean: Lean | None, every: int) -> None:
    roles = _roles()
    params = replace(_uneven(roles), min_tokens=2)
    expected = _sample(Hf(roles, every=1), params)
    _same(_sample(Hf(roles, lean=lean, every=every), params), expected)
    if lean is None:
        _same(_sample(Hf(roles, Ways(select=None), every=every), params), expected)


def test_whoever_listens_hears_each_token_before_the_next_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = _roles()
    events: list[str] = []
    read = lean_sampling.LeanReading.read
    monkeypatch.setattr(
        lean_sampling.LeanReading, "read", lambda self: (events.append("read"), read(self))[1]
    )
    engine = Hf(roles, lean=Lean(False), every=16)
    engine.sample([[5, 6]], Draws(3, "test", 0, [0]), PARAMS, heard=lambda token: events.append("heard"))
    assert events == ["read", "heard"] * (len(events) // 2) and len(events) > 10


class _Taped(TorchDispatchMode):
    """Keeps what runs, with the tensors themselves, as a CUDA graph keeps kernels and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.tape.append((func, args, kwargs or {}, found))
        return found


def _taped(captures: list[int]) -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]]:
    """What a capture on a CPU would be: numbers that were Python's at the capture stay as they were."""

    def capture(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with _Taped() as taped:
            found = step()
        captures.append(len(found))

        def replay() -> Tensor:
            for func, args, kwargs, before in taped.tape:
                after = func(*args, **kwargs)
                for old, new in zip(tree_flatten(before)[0], tree_flatten(after)[0], strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
            return found

        return replay

    return capture


@pytest.mark.parametrize("merge", [False, True])
def test_a_step_can_be_replayed_on_the_same_addresses(merge: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_sampling, "_CAPTURED_COLUMNS", 16)
    roles = _roles()
    params = _uneven(roles)
    captures: list[int] = []
    found = _sample(Hf(roles, lean=Lean(merge, _taped(captures)), every=4), params)
    _same(found, _sample(Hf(roles), params))
    assert len(captures) > 2 and captures[0] == len(PROMPTS)
    assert captures == sorted(captures, reverse=True)  # fewer rows, or more columns


def test_where_no_graph_can_be_made_sampling_goes_on_and_says_so() -> None:
    roles = _roles()
    with pytest.warns(UserWarning, match="without CUDA graphs: operation not permitted"):
        found = _sample(Hf(roles, lean=Lean(True, _refused), every=4))
    _same(found, _sample(Hf(roles)))


def test_graphs_are_used_where_a_probe_shows_the_same_numbers() -> None:
    roles = _roles()
    captures: list[int] = []
    kinds: dict[str, Any] = {"good": _taped(captures), "stale": _stale, "refused": _refused}
    with Lean(True).decoder(roles) as decoder:
        found = {name: with_graphs(Lean(True), roles, decoder, capture) for name, capture in kinds.items()}
    assert found["good"] == Lean(True, kinds["good"]) and captures == [2]
    assert found["stale"].capture is None is found["refused"].capture
    remark = "sampling runs without CUDA graphs: "
    assert Hf(roles, lean=found["stale"]).remarks() == [remark + "captured steps give other numbers"]
    assert Hf(roles, lean=found["refused"]).remarks() == [remark + "operation not permitted"]
    assert Hf(roles, lean=found["good"]).remarks() == []


def test_adapters_are_merged_where_base_and_copy_fit_into_half_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roles = _roles("qwen2")
    base = sum(p.nbytes for p in roles.base.parameters())
    copy = sum(p.nbytes for n, p in roles.base.named_parameters() if n.endswith("_proj.base_layer.weight"))
    for memory, merged in ((2 * (base + copy), True), (2 * (base + copy) - 1, False)):
        monkeypatch.setattr(lean_sampling, "gpu_memory", lambda device, memory=memory: memory)
        found = find_lean(roles)
        assert found is not None and found.merge is merged


def _stale(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    found = torch.zeros_like(step())
    return lambda: found


def _refused(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    raise RuntimeError("operation not permitted\nand more")


def test_it_is_used_where_a_probe_shows_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        assert find_lean(_roles(kind)) == Lean(False)  # on a CPU
    engine = open_engine("hf", _roles(), accelerator(60))
    assert isinstance(engine, Hf) and engine.lean == Lean(False) and engine.ways == Ways()
    others: list[Any] = [
        "gpt2",
        hf.MistralConfig(**SMALL, sliding_window=16),
        hf.LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
    ]
    for other in others:
        assert find_lean(Roles(tiny_model(other, 64))) is None
    turned = lean_decoder._turned
    monkeypatch.setattr(lean_decoder, "_turned", lambda x, cos, sin: turned(x, cos, -sin))
    assert find_lean(_roles()) is None


@torch.no_grad()
@pytest.mark.parametrize("merge", [False, True])
def test_in_half_precision_the_gap_to_training_is_far_from_a_warning(merge: bool) -> None:
    roles = _roles(dtype=torch.bfloat16)
    assert find_lean(roles) is not None
    sampled = _sample(Hf(roles, lean=Lean(merge)))
    forward = Forward(roles)
    prefix = forward.prefix(collate([(one.prompt, one.response) for one in sampled], 0))
    own, _, mask = forward.logprobs("policy", prefix, 1.0)
    engine = pad_sequence([torch.tensor(one.logprobs) for one in sampled], batch_first=True)
    assert 0 < float((own - engine)[mask].abs().mean()) < PPO().engine_gap_warn / 2


_VIEWS = ("view", "t", "transpose", "slice", "select", "unsqueeze", "expand", "split", "alias", "detach")


class _Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name not in (*_VIEWS, "_unsafe_view"):
            self.ops[name] += 1
        return func(*args, **(kwargs or {}))


def _thirty_layers() -> Roles:
    """Of SmolLM2-135M's shape, narrower."""
    sizes = {"hidden_size": 36, "intermediate_size": 48, "num_attention_heads": 9, "num_key_value_heads": 3}
    model = tiny_model(hf.LlamaConfig(**SMALL | sizes | {"num_hidden_layers": 30}), 64)
    roles = Roles(model)
    roles.add("policy", LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"), trains=True)
    roles.prove_logits()
    return roles


def _waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of calls by which the host would wait for a GPU, as they come."""
    found: list[str] = []
    for name in ("tolist", "item", "cpu", "nonzero", "__bool__", "__int__", "__float__", "numpy"):
        own = getattr(Tensor, name)

        def noted(self: Tensor, *args: Any, _own: Any = own, _name: str = name) -> Any:
            found.append(_name)
            return _own(self, *args)

        monkeypatch.setattr(Tensor, name, noted)
    return found


@pytest.mark.parametrize(("merge", "most"), [(True, 460), (False, 850)])
def test_a_token_costs_few_kernels_and_the_host_waits_once_in_sixteen(
    merge: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RMSNorm counts as the one kernel that it is on a GPU; on a CPU it is six."""
    roles, waits, ops = _thirty_layers(), _waits(monkeypatch), {}
    engine = Hf(roles, lean=Lean(merge), every=16)
    for length in (16, 64):
        params = SamplingParams(1.0, -1, 0, max_tokens=length, batch_tokens=1000, min_tokens=8)
        waits.clear()
        with _Counted() as counted:
            engine.sample([[5, 6, 7], [8, 9]] * 3, Draws(0, "test", 0, range(6)), params)
        ops[length] = counted.ops
        assert waits == ["tolist"] * (length // 16)
        assert not {"_local_scalar_dense", "nonzero", "is_nonzero", "equal"} & set(counted.ops)
    step = ops[64] - ops[16]
    norms = 2 * 30 + 1
    assert step["rsqrt"] == norms * 48
    kernels = (sum(step.values()) - 5 * step["rsqrt"]) / 48
    assert kernels < most
