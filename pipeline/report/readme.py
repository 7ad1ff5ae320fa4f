"""The figures that the README quotes, all from the summary: so that no number there is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, mode
from typing import Any

from pipeline.report import blocks
from pipeline.report.averages import known, middle
from pipeline.report.misses import misses
from pipeline.report.page import headline
from pipeline.report.solved import KINDS, all_solved, of_kind
from pipeline.report.summary import smallest_circuits
from pipeline.report.templating import render
from pipeline.report.validation import validated
from pipeline.rows import ModelSummary, Summary, TaskSummary

COMMAND = "python -m flows.readme"
WAYS_TO_COUNT = (
    ("paper_count", "the paper's count (edges between the nodes found)", "about 16"),
    ("minimised", "minimised, 1-minimal", "not done"),
    ("deciding", "of circuits that decide, the paper's count", "not done"),
)
MOST_SCALE = 0.999  # of the largest calibration scale, from which a circuit counts as leaning on it
AT_MOST = 1e-9  # a share that rounding may add to a target


def filled(text: str, summary: Summary, most_scale: float) -> str:
    """README text with each ``<!-- name: python -m flows.readme -->`` … ``<!-- /name -->`` block made anew.

    ``most_scale``: prune.most_scale, the largest calibration scale. Raises ValueError where the text has no such block.
    """
    values = figures(summary, most_scale)
    return blocks.filled(text, COMMAND, lambda name: render(f"readme_{name}.md.j2", **values).strip() + "\n")


def figures(summary: Summary, most_scale: float) -> dict[str, Any]:
    """Name → value of all that the README's templates say."""
    models, firsts = summary["models"], first_seeds(summary)
    solved, wider = all_solved(models), by_width(firsts)
    return {
        "summary": summary,
        "headline": headline(summary),
        "sizes": {kind: sizes(of_kind(models, kind)) for kind in KINDS},
        "ratios": ratios(summary),
        "losses": {kind: ends(model["val_loss_nats"] for model in of_kind(models, kind)) for kind in KINDS},
        "before": {
            kind: ends(model["ratio_discretised_to_minimised"] for model in of_kind(models, kind)) for kind in KINDS
        },
        "by_l0": by_l0(firsts),
        "by_width": wider,
        "improved": improved(wider),
        "misses": misses(summary, wider) if "paper_count" in summary["frontier"] else [],
        "ablated_nodes": medians(models, "ablated_nodes_loss"),
        "ablated_edges": medians(models, "ablated_edges_loss"),
        "on_test": on_test([task for _, _, task in solved], summary, most_scale),
        "above": [(model["name"], name) for model in models for name in model["test_loss"]["above"]],
        # by the whole interval of the loss on test pairs
        "n_surely_above": sum(
            task["circuit_loss_interval"][0] > summary["target_loss"] + summary["test_margin"] for _, _, task in solved
        ),
        "not_minimal": [
            (model["name"], name, task["n_edges"]) for model, name, task in solved if not task["one_minimal"]
        ],
        "empty": sorted({name for _, name, task in solved if not task["n_nodes"]}),
        "tested": tested(summary),
        "example": example(summary),
    }


def ends(values: Iterable[float | None]) -> tuple[float, float] | None:
    """Smallest and largest of those that are known."""
    found = known(values)
    return (min(found), max(found)) if found else None


def sizes(models: Sequence[ModelSummary]) -> dict[str, Any]:
    """How many models, their widths, and their tokens in millions (``5 M to 10 M``)."""
    least, most = (f"{pick(model['tokens'] for model in models) / 1e6:.0f} M" for pick in (min, max))
    return {
        "n": len(models),
        "widths": sorted({model["d_model"] for model in models}),
        "tokens": least if least == most else f"{least} to {most}",
    }


def ratios(summary: Summary) -> list[dict[str, Any]]:
    """Dense over sparse edges at the target loss by every way to count that the summary has, the paper's first; of all
    sparse models together and of the widest alone."""
    frontier, target = summary["frontier"], f"{summary['target_loss']:g}"
    found = []
    for key, what, paper in WAYS_TO_COUNT:
        if row := frontier.get(key, {}).get(target):
            found.append(row | {"what": what, "paper": paper, "widest": row["widest"]["ratio"]})
    return found


def medians(models: Sequence[ModelSummary], key: str) -> tuple[float, float] | None:
    """Smallest and largest of the models' medians over the circuits of solved tasks."""
    circuits: list[list[Mapping[str, Any]]] = [[task for _, _, task in all_solved([model])] for model in models]
    return ends(middle(task[key] for task in tasks) for tasks in circuits)


def first_seeds(summary: Summary) -> list[ModelSummary]:
    """The models without those that repeat another one's architecture with another seed."""
    again = {name for row in summary["frontier"].get("seed_spread", []) for name in row["models"][1:]}
    return [model for model in summary["models"] if model["name"] not in again]


def by_l0(models: Sequence[ModelSummary]) -> list[ModelSummary]:
    """The sparse models of the width that most of them have, the densest first."""
    sparse = of_kind(models, "sparse")
    width = mode(model["d_model"] for model in sparse)
    return sorted((model for model in sparse if model["d_model"] == width), key=lambda model: -model["l0"])


def by_width(models: Sequence[ModelSummary]) -> list[ModelSummary]:
    """Sparse models with as many nonzero weights in their blocks' matrices but other widths, the narrowest first."""
    sparse = of_kind(models, "sparse")
    common = mode(block_l0(model) for model in sparse)
    return sorted((model for model in sparse if block_l0(model) == common), key=lambda model: model["d_model"])


def improved(models: Sequence[Mapping[str, Any]]) -> str:
    """``both``, ``neither``, or which of loss and circuits is smaller in the last model than in the first."""
    first, last = models[0], models[-1]
    better = [
        what
        for what, key in (("the loss", "val_loss_nats"), ("the circuits", "geomean_edges"))
        if last[key] is not None and first[key] is not None and last[key] < first[key]
    ]
    return {0: "neither", 1: f"{better[0]} only" if better else "", 2: "both"}[len(better)]


def block_l0(model: ModelSummary) -> int:
    """Nonzero weights of the matrices inside blocks."""
    matrices = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    return sum(count for name, count in model["l0_by_matrix"].items() if name.endswith(matrices))


def on_test(tasks: Sequence[TaskSummary], summary: Summary, most_scale: float) -> dict[str, Any]:
    """How circuits of solved tasks do on test pairs, and how many lean on the largest calibration scale."""
    losses = [task["circuit_loss"] for task in tasks]
    return {
        "n": len(tasks),
        "n_at_target": sum(loss <= summary["target_loss"] * (1 + AT_MOST) for loss in losses),
        "n_within": sum(model["test_loss"]["n_within"] for model in summary["models"]),
        "mean": mean(losses),
        "n_most_scale": sum((task["calibration_scale"] or 0) >= MOST_SCALE * most_scale for task in tasks),
        "most_scale": most_scale,
        "n_minimal": sum(bool(task["one_minimal"]) for task in tasks),
    }


def tested(summary: Summary) -> dict[str, Any]:
    """Counts of validated circuits: ``n`` in all; by claim, and by check those of both kinds, of sparse and of dense
    models; ``five``: how many support at least five claims, of each kind."""
    circuits = validated(summary["models"])
    by_test = {row["name"]: row for row in summary["validation"]["by_test"]}
    passed, taken = (
        {name: sum(row[kind][key] for kind in KINDS) for name, row in by_test.items()}
        for key in ("n_passed", "n_tested")
    )
    controls = [row for row in summary["validation"]["controls"] if row["control"] != "true"]
    return {
        "n": len(circuits),
        "n_models": len({model["name"] for model, _, _ in circuits}),
        "passed": passed,
        "taken": taken,
        "by_test": by_test,
        "by_claim": {row["name"]: row for row in summary["validation"]["by_claim"]},
        "five": {kind: found["n_at_least"][5] for kind, found in summary["validation"]["circuits"].items()},
        "deciding": deciding_claims(summary),
        "n_without_needless": passed.get("minimality", 0),
        "n_controls": len(controls),
        "n_controls_met": sum(row["met"] for row in controls),
    }


def deciding_claims(summary: Summary) -> dict[str, int]:
    """How many deciding circuits of sparse models were tested, and how many of them support at least five claims."""
    found = summary["validation"].get("deciding", {}).get("circuits", {}).get("sparse")
    return {"n": found["n_circuits"], "five": found["n_at_least"][5]} if found else {"n": 0, "five": 0}


def example(summary: Summary, task: str = "single_double_quote") -> Mapping[str, Any] | None:
    """The row of a task's smallest circuit, which the report draws, and its ``model``; None where none does it.

    The task is the post's first example.
    """
    model = smallest_circuits(summary).get(task)
    return next((row["tasks"][task] | {"model": model} for row in summary["models"] if row["name"] == model), None)
