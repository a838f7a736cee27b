"""Tasks of lm-evaluation-harness, answered by each policy as it lies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from align.compare.policies import Policy
from align.errors import UserError
from align.evaluation.answers import Answering
from align.recipe.evaluate import LmEval
from align.stages.frame import Setup


def check_tasks(wanted: LmEval) -> None:
    """Raise UserError where the package is not there, or has no such task."""
    _tasks(wanted)


def run_tasks(
    wanted: LmEval, answering: Answering, policies: Sequence[Policy], setup: Setup
) -> dict[str, Any]:
    """By policy, task and metric: the value and its standard error, None where there is none."""
    manager = _tasks(wanted)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    found: dict[str, Any] = {}
    roles = answering.forward.roles
    for policy in policies:
        roles.activate(policy.role)
        model = HFLM(pretrained=roles.base, tokenizer=setup.base.tokenizer, batch_size=8)
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=wanted.tasks,
            limit=wanted.limit,
            task_manager=manager,
            log_samples=False,
            bootstrap_iters=1000,
            random_seed=answering.seed,
            numpy_random_seed=answering.seed,
            torch_random_seed=answering.seed,
        )
        found[policy.label] = {task: _metrics(one) for task, one in results["results"].items()}
    return found


def _tasks(wanted: LmEval) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise UserError(
            f"evaluate.lm_eval needs {error.name}, which is not installed: pip install 'align-rlhf[lm_eval]'"
        ) from error
    manager = TaskManager(include_path=wanted.folder)
    known = set(manager.all_tasks)
    if unknown := [task for task in wanted.tasks if task not in known]:
        raise UserError(f"evaluate.lm_eval.tasks: lm_eval has no task {', '.join(unknown)}")
    return manager


def _metrics(results: dict[str, Any]) -> dict[str, Any]:
    """{"acc": {"value", "se"}} of lm_eval's {"acc,none": …, "acc_stderr,none": …}."""
    found: dict[str, Any] = {}
    for key, number in results.items():
        metric, comma, name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(number, int | float):
            continue
        error = results.get(f"{metric}_stderr,{name}")
        label = metric if name == "none" else f"{metric} ({name})"
        found[label] = {
            "value": float(number),
            "se": float(error) if isinstance(error, int | float) else None,
        }
    return found
