"""The rows that stages leave for each other as JSON, each written as the dict that it is: mypy checks the keys.

Losses are in nats. A key is there unless it is ``NotRequired``; what does not exist is null, never 0.
"""

from collections.abc import Mapping
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

Interval = list[float]  # both ends; 95 %
MaybeNone = Any  # null where there is no circuit; a reader of a solved task need not ask
SectionRow = dict[str, Any]  # what a test of validate found, with its checks as ``tests``
HistoryRow = Mapping[str, float]  # a line of models/<model>/history.jsonl: step, tokens, val_loss, l0, …
RowT = TypeVar("RowT")


class OfModel(TypedDict, Generic[RowT]):
    """circuits/<model>/summary.json, ablations/<model>.json, validations/<model>.json: a row a task."""

    model: str
    model_hash: str
    tasks: dict[str, RowT]
    residual_kurtosis: NotRequired[SectionRow]  # validate's


# models/<model>/summary.json
ModelRow = TypedDict("ModelRow", {
    "name": str, "kind": str, "n_layer": int, "d_model": int, "n_params": int, "l0": int,
    "l0_by_matrix": dict[str, int], "tokens": int, "val_loss_nats": float, "train_seconds": float, "model_hash": str,
    "sparse_below": NotRequired[float],
})  # fmt: skip

# A circuit; the loss is that on the evaluator's pairs
Sizes = TypedDict("Sizes", {
    "n_nodes": int | MaybeNone, "n_edges": int | MaybeNone, "validation_loss": float | MaybeNone,
})  # fmt: skip

# The smallest circuit at a target loss
CurvePoint = TypedDict("CurvePoint", {
    "target_loss": float, "loss": float | MaybeNone, "n_nodes": int | MaybeNone, "n_edges": int | MaybeNone,
    "discretised": NotRequired[Sizes],  # before minimisation
})  # fmt: skip

# A trial of the search, in circuits/<model>/<task>/trials.json
TrialRow = TypedDict("TrialRow", {
    "number": int, "source": str, "state": str, "hyperparameters": dict[str, Any],
    "n_nodes": int | None, "n_edges": int | None, "validation_loss": float | None,
})  # fmt: skip

# A task in circuits/<model>/summary.json; the sizes are those after minimisation
PruneRow = TypedDict("PruneRow", {
    "unpruned_loss": float | MaybeNone, "unpruned_validation_loss": float | MaybeNone,
    "n_nodes": int | MaybeNone, "n_edges": int | MaybeNone, "validation_loss": float | MaybeNone,
    "discretised": Sizes | None, "calibration_scale": float | MaybeNone, "hyperparameters": dict[str, Any] | None,
    "n_trials": int | None, "one_minimal": bool | None, "solved": bool | None, "curve": list[CurvePoint],
    "baselines": dict[str, Sizes],
    "expressible": NotRequired[bool], "reason": NotRequired[str | None], "seconds": NotRequired[float | None],
    "target_loss": NotRequired[float],  # that the circuit was made for, in nats
    "test_loss": NotRequired[float],  # the command's
    "deciding": NotRequired[MaybeNone],  # a PruneRow of the task's deciding circuit
})  # fmt: skip

# In circuit.json; of nodes and edges: site or edge key → the loss without each one
Certificate = TypedDict("Certificate", {
    "target_loss": float, "loss": float, "nodes": dict[str, list[float]], "edges": dict[str, list[float]],
})  # fmt: skip

# What ablate says of a circuit, and report repeats
AblationFacts = TypedDict("AblationFacts", {
    "unpruned_loss_interval": Interval | None, "unpruned_accuracy": float | None,
    "circuit_loss": float | MaybeNone, "circuit_loss_interval": Interval | MaybeNone,
    "circuit_loss_uncalibrated": float | None, "circuit_accuracy": float | None,
    "nodes_only_loss": float | None, "nodes_only_loss_interval": Interval | None,
    "nodes_only_loss_uncalibrated": float | None, "nodes_only_accuracy": float | None,
    "ablated_nodes_loss": float | MaybeNone, "ablated_nodes_loss_interval": Interval | None,
    "ablated_edges_loss": float | MaybeNone, "ablated_edges_loss_interval": Interval | None,
    "random_circuit_loss_median": float | None, "random_nodes_only_loss_median": float | None,
    "random_nodes_loss_median": float | None, "random_edges_loss_median": float | None,
})  # fmt: skip


class AblationRow(AblationFacts):
    """A circuit in ablations/<model>.json."""

    unpruned_loss: float
    counterfactual_loss: float
    counterfactual_loss_interval: Interval
    counterfactual_accuracy: float
    deciding: NotRequired[MaybeNone]  # the same of the task's deciding circuit
    ablated_nodes_accuracy: float
    ablated_edges_accuracy: float
    random_circuit_losses: list[float]
    random_nodes_only_losses: list[float]
    random_nodes_losses: list[float]
    random_edges_losses: list[float]


# The outcome of one test of a circuit; ``claim``: to which it is essential or extra, or "stress"; ``passed`` null: with
# a value, only measured; without one, not tested
Check = TypedDict("Check", {
    "name": str, "claim": str, "essential": bool,
    "passed": bool | None, "value": float | None, "limit": float | None, "says": str,
})  # fmt: skip

# Each claim about a circuit → "supported", "not supported" or "not tested"
Claims = TypedDict("Claims", {
    "alone": str, "decides": str, "needed": str, "mechanism": str, "elsewhere": str, "not_artefact": str,
})  # fmt: skip

# One claim: its outcome, its number and what that measures, and what was found
ClaimRow = TypedDict("ClaimRow", {
    "outcome": str, "statement": str, "number": float | None, "measure": str, "says": str,
})  # fmt: skip

# What a circuit's checks say of the claims, and the line that says it
VerdictRow = TypedDict("VerdictRow", {
    "claims": dict[str, ClaimRow], "n_supported": int, "n_tested": int, "line": str,
})  # fmt: skip

# A part of a published mechanism. ``at``: a node or a head (layer.head), the nearest to it where it is not found;
# ``n_found``: how many are it. Of a head, its ``weight`` on the place in question, over uniform ``lift``, ``look_auc``
# against other places; and the AUC by which its value there, and its output, tell the kinds of prompt apart
PublishedPart = TypedDict("PublishedPart", {
    "statement": str, "found": bool, "n_found": int, "at": str | None, "weight": float | None, "lift": float | None,
    "look_auc": float | None, "auc": float | None, "output_auc": float | None, "value": str | None,
    "output": str | None, "says": str,
})  # fmt: skip

# The published mechanism of a circuit's task, part by part; it bears on no claim
PublishedRow = TypedDict("PublishedRow", {
    "parts": dict[str, PublishedPart], "n_found": int, "n_parts": int, "line": str,
})  # fmt: skip

# A circuit in validations/<model>.json; an empty one has no section
ValidationRow = TypedDict("ValidationRow", {
    "complement": NotRequired[SectionRow], "decides": NotRequired[SectionRow], "necessity": NotRequired[SectionRow],
    "mechanism": NotRequired[SectionRow],
    "generalisation": NotRequired[SectionRow], "hypotheses": NotRequired[SectionRow],
    "faithfulness": NotRequired[SectionRow], "features": NotRequired[SectionRow], "stability": NotRequired[SectionRow],
    "prediction": NotRequired[SectionRow], "controls": NotRequired[SectionRow],
    "published": NotRequired[PublishedRow],
    "verdict": VerdictRow, "seconds": dict[str, float],
    "deciding": NotRequired[MaybeNone],  # the same of the task's deciding circuit
})  # fmt: skip

# What a node seems to respond to in code, and the next best statements; ``weak``: it explains little
Label = TypedDict("Label", {
    "text": str, "score": float, "measure": str, "weak": bool, "others": list[dict[str, Any]],
})  # fmt: skip

# What a node of a circuit does in its task: where it differs and by how much, its role in the flow, the AUC; no score
# where it has one value everywhere
# ``short``: two or three words for the drawing; explanations made before there were drawings with words have none
TaskLabel = TypedDict("TaskLabel", {
    "text": str, "role": str, "score": float | None, "measure": str, "weak": bool, "short": NotRequired[str],
})  # fmt: skip

# What became of the answer of held-out prompts where nodes had their values on the pair's other prompt: the share of
# prompts that moved (``moved_whole``: of those that are not shorter than their pair's other one), the share of right
# answers that flipped, how much of the way the mean one went; null: no prompts
StoryNumbers = TypedDict("StoryNumbers", {
    "moved": float | None, "moved_whole": float | None, "flips": float | None, "share": float | None, "n_prompts": int,
})  # fmt: skip


class StorySentence(StoryNumbers):
    """A step of a circuit's flow: ``nodes`` were swapped, ``carriers`` are the channels named with them; ``weak``: it
    moves too few prompts, also of those that have a place for all of it: the text says so. ``apart``: it moves too few
    of all only because shorter prompts have no place for it: the story's ``limit`` says so."""

    text: str
    nodes: list[str]
    carriers: list[str]
    weak: bool
    apart: bool


class StoryOutcome(StoryNumbers):
    """All steps of a story at once."""

    text: str


# A circuit told in sentences; the gist is one for a gallery, the limit one of the test, empty where it has none
Story = TypedDict("Story", {"gist": str, "sentences": list[StorySentence], "all": StoryOutcome, "limit": str})

# explanations/<model>.json; tokens are indices into the texts in ``tokens``
Explanation = TypedDict("Explanation", {
    "model": str, "model_hash": str, "tokens": list[str], "nodes": Mapping[str, dict[str, Any]],
    "circuits": Mapping[str, dict[str, Any]],
})  # fmt: skip


class TaskSummary(PruneRow, AblationFacts):
    """A task of a model in results/summary.json; its validation has no long lists."""

    random_circuit_loss_range: Interval | None
    random_circuit_loss_n: int | None
    random_nodes_only_loss_range: Interval | None
    random_nodes_only_loss_n: int | None
    random_nodes_loss_range: Interval | None
    random_nodes_loss_n: int | None
    random_edges_loss_range: Interval | None
    random_edges_loss_n: int | None
    prune_seconds: float | None
    validation: ValidationRow | MaybeNone
    circuits: NotRequired[dict[str, Any]]  # paper, deciding: facts of each; not in summaries from before
    claims: Claims | None
    verdict: dict[str, Any]


class ModelSummary(ModelRow):
    """A model in results/summary.json; means and ratios are geometric, over solved tasks."""

    tasks: dict[str, TaskSummary]
    n_solved: int
    geomean_edges: float | None
    geomean_edges_discretised: float | None
    ratio_discretised_to_minimised: float | None
    test_loss: dict[str, Any]
    residual_kurtosis: SectionRow | None
    validation: dict[str, dict[str, Any]]


# results/summary.json
Summary = TypedDict("Summary", {
    "models": list[ModelSummary], "frontier": dict[str, Any], "minimisation": dict[str, Any],
    "baselines": dict[str, Any], "curve_means": dict[str, Any], "validation": dict[str, Any], "target_loss": float,
    "test_margin": float, "bigram_loss_nats": float | None, "provenance": dict[str, Any],
})  # fmt: skip
