"""What the study does not show, or shows against the paper: sentences for the pages, each only where it is so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pipeline.report.averages import known, log_edges, mean_ratio
from pipeline.report.frontier import discretised_edges, without_edges
from pipeline.report.solved import KINDS, all_solved, of_kind
from pipeline.rows import ModelSummary, Summary

DECIDED = 0.95  # accuracy against all else, from which a deciding circuit is said to decide (validate's limit, too)


def misses(summary: Summary, by_width: Sequence[ModelSummary]) -> list[str]:
    """``by_width``: sparse models of equal L0 in their blocks, the narrowest first."""
    models = summary["models"]
    return [
        *unsolved(of_kind(models, "sparse")),
        *edgeless(summary),
        *equal_tokens(summary),
        *widths(by_width),
        *targets(summary),
        *deciding(summary),
    ]


def unsolved(models: Sequence[ModelSummary]) -> Iterator[str]:
    """The tasks that none of the models solves."""
    tasks = dict.fromkeys(name for model in models for name in model["tasks"])
    left = sorted(tasks.keys() - {name for _, name, _ in all_solved(models)})
    if left:
        yield f"No sparse model does {len(left)} of the {len(tasks)} tasks ({', '.join(f'`{name}`' for name in left)})."


def edgeless(summary: Summary) -> Iterator[str]:
    """The tasks whose circuits have no edge in any model, which therefore show nothing of sparsity."""
    names = sorted(without_edges([discretised_edges(row, summary["target_loss"]) for row in summary["models"]]))
    if names:
        said = ", ".join(f"`{name}`" for name in names)
        yield f"No model needs an edge for {said} (its bigram table does it alone): dense ÷ sparse leaves it out."


def equal_tokens(summary: Summary) -> Iterator[str]:
    """A dense model of no more tokens that has less loss than any sparse one, the narrowest; sizes beside the widest
    sparse model's, whatever their losses."""
    sparse, dense = (of_kind(summary["models"], kind) for kind in KINDS)
    best = min(sparse, key=lambda model: model["val_loss_nats"], default=None)
    better = [
        row
        for row in dense
        if best and row["tokens"] <= best["tokens"] and row["val_loss_nats"] < best["val_loss_nats"]
    ]
    if best is None or not better:
        return
    narrow, wide = min(better, key=width_of), max(sparse, key=width_of)
    yield (
        f"Sparsity costs capability: a dense model of width {narrow['d_model']} and {narrow['tokens'] / 1e6:.3g} "
        f"million tokens has {narrow['val_loss_nats']:.3f} nats, the best sparse one {best['val_loss_nats']:.3f} "
        f"(width {best['d_model']}, {best['tokens'] / 1e6:.3g} million)."
    )
    few, many = (discretised_edges(row, summary["target_loss"]) for row in (wide, narrow))
    compared = sorted((few.keys() & many.keys()) - without_edges([few, many]))
    ratio = mean_ratio([log_edges(many[task]) - log_edges(few[task]) for task in compared])
    if ratio is not None:
        yield f"The circuits of that dense model have {ratio:.1f} times the edges of those of width {wide['d_model']}."


def width_of(model: ModelSummary) -> int:
    return model["d_model"]


def widths(models: Sequence[ModelSummary]) -> Iterator[str]:
    """Where more width at equal L0 makes the loss or the circuits worse."""
    for narrow, wide in pairwise(models):
        step = f"from width {narrow['d_model']} to {wide['d_model']} at equal L0"
        if wide["val_loss_nats"] > narrow["val_loss_nats"]:
            yield f"The loss rises {step}, from {narrow['val_loss_nats']:.3f} to {wide['val_loss_nats']:.3f} nats."
        before, after = narrow["geomean_edges_discretised"], wide["geomean_edges_discretised"]
        if before is not None and after is not None and after > before:
            yield f"Circuits grow {step}, from {before:.0f} to {after:.0f} edges."


def targets(summary: Summary) -> Iterator[str]:
    """Stricter targets at which sparse circuits are not half as much smaller, by the paper's count."""
    found, main = summary["frontier"]["paper_count"], summary["target_loss"]
    ratios = {float(target): row["ratio"] for target, row in found.items() if row["ratio"] is not None}
    less = {target: ratio for target, ratio in ratios.items() if target < main and ratio < ratios.get(main, 0) / 2}
    if less:
        rows = ", ".join(f"{ratio:.1f} at {target:g}" for target, ratio in sorted(less.items(), reverse=True))
        yield f"Stricter targets take most of the advantage: {rows} nats, against {ratios[main]:.1f} at {main:g}."


def deciding(summary: Summary) -> Iterator[str]:
    """Deciding circuits that do not decide on test pairs, or are too large to be made 1-minimal."""
    for kind in reversed(KINDS):
        solved = all_solved(of_kind(summary["models"], kind))
        rows = [row for _, _, task in solved if (row := task.get("circuits", {}).get("deciding"))]
        weak = sum(accuracy < DECIDED for accuracy in known(row["counterfactual_accuracy"] for row in rows))
        if weak:
            yield (
                f"{weak} of {len(rows)} deciding circuits of {kind} models are right on less than {DECIDED:.0%} "
                "of the test prompts with all else as on the other prompt."
            )
        large = sum(not row["one_minimal"] for row in rows)
        if large:
            yield f"{large} of {len(rows)} deciding circuits of {kind} models are too large to be made 1-minimal."
