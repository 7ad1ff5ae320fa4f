"""A circuit: the nodes and edges of one model that do one task, with all that is needed to run them (§5).

``Circuit.load(path)`` reads one, ``circuit(model)`` is the model with its complement ablated,
``circuit.compact(model)`` computes the same by the circuit's nodes alone. A circuit is saved as ``circuit.json`` (nodes
and edges by name, model and task, certificate) and ``circuit.safetensors`` (means, ablation values and scores of all
nodes), readable without this project. Of a circuit of more than ``MANY_EDGES``, circuit.json has the number of edges of
each kind, and circuit.safetensors has their ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.ablation import Ablation
from pipeline.artifacts import ArtifactError, existing, memory_ended, read_json, whole_folder, write_json
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.background import background
from pipeline.circuit.compact import Compact, Frozen
from pipeline.circuit.compact_rows import FrozenRows
from pipeline.circuit.graph import induced_edges
from pipeline.circuit.interventions import edge_weights, node_masks
from pipeline.circuit.masked import Masked, MaskedPairs
from pipeline.circuit.parts import PartError, check_parts
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.checkpoint import ODD, finite
from pipeline.model.scoring import calibrated
from pipeline.model.transformer import Transformer
from pipeline.refusal import RefusalError
from pipeline.rows import Certificate
from pipeline.sites import (
    EDGE_KINDS,
    edge_name,
    node_name,
    split_edge_key,
    split_edge_name,
    split_node_name,
    split_site_key,
)

FORMAT = 2
MANY_EDGES = 1_000_000  # As text, 85 million edges take tens of gigabytes to read.


class WrongModelError(RefusalError, ValueError):
    """A circuit is to be run on a model that it was not cut out of."""


@runtime_checkable
class Loaded(Protocol):
    """A model with its tokenizer: ``pipeline.workspace.LoadedModel``."""

    @property
    def model(self) -> Transformer: ...


def plain(model: Transformer | Loaded) -> Transformer:
    return model if isinstance(model, Transformer) else model.model


@dataclass(frozen=True)
class Circuit:
    """Kept nodes and edges of a model.

    ``nodes``: site key → kept indices, ascending; sites without kept nodes are absent. ``edges``: edge key → [n_edges,
    2] (source index, target index), sorted; absent where empty. ``means``: site key → mean of *every* node of the site
    over the pretraining distribution. ``scores``: site key → how needed the search found every node, the larger the
    more. ``ablations``: the complement's values, one or several kinds, the first of which runs it (none: the means);
    it was made to meet its target under each. ``calibration``: (scale, shift) of the two
    answer logits. ``about``: model, task, model_hash, task_hash, target_loss, validation_loss and other facts that
    identify it. ``certificate``: the loss after each single removal (``pipeline.prune.minimise``); or None.
    ``folder``: where it was loaded from; None for one made here.
    """

    nodes: Mapping[str, Int[Tensor, " _n"]]
    edges: Mapping[str, Int[Tensor, "_n 2"]]
    means: Mapping[str, Float[Tensor, " _width"]]
    scores: Mapping[str, Float[Tensor, " _width"]]
    ablations: tuple[AblationValues, ...] = ()
    calibration: tuple[float, float] = (1.0, 0.0)
    about: Mapping[str, Any] = field(default_factory=dict)
    certificate: Certificate | None = None
    folder: Path | None = None

    if TYPE_CHECKING:  # methods that need a loaded model or the report are defined in pipeline.face

        def run_with_cache(self, model: Any, text: Any, names: str | list[str] = "*", **changes: Any) -> Any: ...

        def draw(self, out: Path | str | None = None, model: Any = None) -> str: ...

    def __repr__(self) -> str:
        task, model = self.about.get("task", "a task"), self.about.get("model", "a model")
        return f"Circuit({task} in {model}: {self.n_nodes} nodes, {self.n_edges} edges)"

    @property
    def n_nodes(self) -> int:
        return sum(len(indices) for indices in self.nodes.values())

    @property
    def n_edges(self) -> int:
        return sum(len(pairs) for pairs in self.edges.values())

    @property
    def ablation_values(self) -> AblationValues:
        """The values of nodes outside the circuit, and of cut edges' sources."""
        return self.all_ablations[0]

    @property
    def all_ablations(self) -> tuple[AblationValues, ...]:
        """Every kind that the circuit was made for."""
        return self.ablations or (AblationValues.at_means(self.means),)

    @property
    def constant_ablation(self) -> AblationValues:
        """For one prompt without its pair: the first kind that is the same at all positions, else the means."""
        constant = (one for one in self.all_ablations if not one.kind.varies)
        return next(constant, AblationValues.at_means(self.means))

    def node_masks(self) -> dict[str, Float[Tensor, " _width"]]:
        """Site key → 1 for kept nodes, 0 for the others, for every site of the model."""
        return node_masks(self.nodes, self.means)

    def __call__(self, model: Transformer | Loaded, draw: int = 0) -> Masked | MaskedPairs:
        """The model with only this circuit live: call it with tokens, as the model; where ablation values differ by
        prompt, with both sides of each pair. Raises WrongModelError."""
        model = plain(model)
        self.check_model(model)
        check_parts(self.nodes, self.edges, model.widths())
        if self.ablation_values.kind.varies:
            return MaskedPairs(model, self.nodes, self.edges, self.ablation_values)
        return Masked(model, self.nodes, self.edges, self.ablation_values.draws[draw])

    def on(self, model: Transformer | Loaded, batch: PairBatch, draw: int = 0) -> Masked:
        """The model with only this circuit live, for the padded prompts of these pairs at all positions: its
        ``intervene`` and ``cuts``. Raises WrongModelError."""
        model = plain(model)
        self.check_model(model)
        behind = background(model, self.ablation_values.to(model.device), batch, draw, packed=False)
        return Masked(model, self.nodes, self.edges, behind.values)

    def compact(self, model: Transformer | Loaded, draw: int = 0) -> Compact:
        """The same logits within 1e-4, computed by the circuit's nodes alone, on a CPU; for ablation values that are
        the same for all prompts. Raises WrongModelError, ValueError for others."""
        model = plain(model)
        self.check_model(model)
        check_parts(self.nodes, self.edges, model.widths())
        if self.ablation_values.kind.varies:
            kind = self.ablation_values.kind.value
            raise ValueError(f"{kind} ablation follows from the pairs: use circuit.answers(model, pairs)")
        return Compact(Frozen(model, self.ablation_values.draws[draw]), self.nodes, self.edges)

    @property
    def node_names(self) -> list[str]:
        """``"0.attn_in.12"`` and its like, in the order of the forward pass."""
        return [node_name(key, i) for key, indices in self.nodes.items() for i in indices.tolist()]

    @property
    def edge_names(self) -> list[str]:
        """``"0.attn_in.12->0.attn_v.34"`` and its like."""
        return [edge_name(key, *pair) for key, pairs in self.edges.items() for pair in pairs.tolist()]

    @property
    def removal_losses(self) -> dict[str, float]:
        """Name of a node or an edge → loss in nats of the circuit without it, on the certificate's pairs.

        Empty without a certificate.
        """
        certificate: Mapping[str, Any] = self.certificate or {}
        found: dict[str, float] = {}
        for kind, keys, names in (("nodes", self.nodes, self.node_names), ("edges", self.edges, self.edge_names)):
            if losses := certificate.get(kind):
                found |= zip(names, (float(loss) for key in keys for loss in losses[key]), strict=True)
        return found

    def without(self, *names: str) -> Circuit:
        """The circuit without some nodes and their edges, and without some edges. Raises ValueError for other names."""
        unknown = sorted(set(names) - {*self.node_names, *self.edge_names})
        if unknown:
            raise ValueError(f"not in the circuit: {', '.join(unknown)}; allowed: its node_names and edge_names")
        nodes = [name for name in self.node_names if name not in names]
        edges = [e for e in self.edge_names if e not in names and not {*e.split("->")} & {*names}]
        return self.of_names(nodes, edges)

    def with_edge(self, *names: str, model: Transformer | Loaded | None = None) -> Circuit:
        """The circuit and some edges more, with their ends.

        ``model``: where it is given, its weight of an edge has to be nonzero. Raises ValueError for a name that is no
        edge's, and for an end that is no node of the model.
        """
        for name in names:
            key, source, target = split_edge_name(name)
            for end in name.split("->"):
                site, index = split_node_name(end)
                width = len(self.means.get(site, ()))
                if not 0 <= index < width:
                    raise ValueError(f"{name}: {end} is no node of the model, which has {width} at {site}")
            if model is not None and not edge_weights(plain(model), key)[target, source]:
                raise ValueError(f"{name}: its weight is zero, so it is no edge of this model")
        ends = {end for name in names for end in name.split("->")}
        return self.of_names({*self.node_names, *ends}, {*self.edge_names, *names})

    def with_nodes(self, model: Transformer | Loaded, *names: str) -> Circuit:
        """The circuit and some nodes more, with all edges of the model between its nodes (§5): no edge stays cut.

        Raises ValueError for a name that is no node's of the model.
        """
        more = self.of_names({*self.node_names, *names}, [])
        for key, indices in more.nodes.items():
            if not 0 <= int(indices[0]) <= int(indices[-1]) < len(self.means[key]):
                raise ValueError(f"{key} has no node {int(indices[-1])}: the model has {len(self.means[key])} there")
        return replace(more, edges=induced_edges(plain(model), node_masks(more.nodes, self.means)))

    def of_names(self, nodes: Iterable[str], edges: Iterable[str]) -> Circuit:
        """The circuit of these nodes and edges of the same model, without the certificate, which was for others."""
        by_site: dict[str, list[int]] = {key: [] for key in self.means}
        by_kind: dict[str, list[list[int]]] = {}
        for name in nodes:
            key, index = split_node_name(name)
            by_site[key].append(index)
        for name in edges:
            edge, source, target = split_edge_name(name)
            by_kind.setdefault(edge, []).append([source, target])
        return replace(
            self,
            nodes={key: torch.tensor(sorted(indices)) for key, indices in by_site.items() if indices},
            edges={key: torch.tensor(sorted(pairs)) for key, pairs in sorted(by_kind.items(), key=_place)},
            certificate=None,
        )

    def to_networkx(self) -> Any:
        """A ``networkx.DiGraph`` of node names, with ``layer``, ``site`` and ``index``; edges have their ``key``."""
        import networkx

        graph = networkx.DiGraph(**{key: str(value) for key, value in self.about.items()})
        for name in self.node_names:
            key, index = split_node_name(name)
            layer, site = split_site_key(key)
            graph.add_node(name, layer=layer, site=site.value, index=index)
        for name in self.edge_names:
            graph.add_edge(*name.split("->"), key=split_edge_name(name)[0])
        return graph

    def answers(self, model: Transformer | Loaded, batch: PairBatch, draw: int = 0) -> Float[Tensor, "prompt 2"]:
        """Logits of the right and the wrong answer of each prompt, calibrated. Raises WrongModelError."""
        pairs = batch.to(torch.device("cpu"))
        if self.ablation_values.kind.varies:
            self.check_model(plain(model))
            behind = background(plain(model).on_cpu(), self.ablation_values, pairs, draw)
            return calibrated(FrozenRows(behind).answers(self.nodes, self.edges, pairs.answers), self.calibration)
        logits = self.compact(model, draw)(pairs.tokens, at=pairs.last)
        return calibrated(answer_logits(logits, pairs), self.calibration)

    def check_model(self, model: Transformer) -> None:
        """Raises WrongModelError where the model is not the one that the circuit was cut out of."""
        if model.checkpoint is not None:
            self.check_hash(model.checkpoint)
        widths = {key: len(mean) for key, mean in self.means.items()}
        if widths != model.widths():
            raise WrongModelError(
                f"circuit of {self.about.get('model')} / {self.about.get('task')}: its model has sites of other widths "
                "than this one; load the model that it was cut out of"
            )

    def check_hash(self, model_hash: str) -> None:
        """Raises WrongModelError where the circuit is of another checkpoint."""
        if self.about.get("model_hash", model_hash) != model_hash:
            raise WrongModelError(
                f"circuit of {self.about.get('model')} / {self.about.get('task')} belongs to checkpoint "
                f"{self.about['model_hash']}, not to {model_hash}; load that model, or prune this one"
            )

    def save(self, folder: Path | str) -> None:
        """Write the circuit into ``folder``, whole or not at all."""
        folder, many = Path(folder), self.n_edges > MANY_EDGES
        description = {
            "format": FORMAT,
            "about": dict(self.about),
            "ablations": [ablated_to.kind.value for ablated_to in self.all_ablations],
            "n_nodes": self.n_nodes,
            "n_edges": self.n_edges,
            "calibration": {"scale": self.calibration[0], "shift": self.calibration[1]},
            "nodes": {key: indices.tolist() for key, indices in self.nodes.items()},
            "edges": {key: len(pairs) if many else pairs.tolist() for key, pairs in self.edges.items()},
            "certificate": self.certificate,
        }
        tensors = {f"mean.{key}": value for key, value in self.means.items()}
        tensors |= {f"score.{key}": value for key, value in self.scores.items()}
        tensors |= {f"edge.{key}": pairs.int() for key, pairs in self.edges.items() if many}
        for i, ablated_to in enumerate(self.all_ablations):
            tensors |= {f"{_draws(i)}{key}": value for key, value in ablated_to.samples.items()}
        with whole_folder(folder) as partial:
            write_json(partial / "circuit.json", description)
            save_file(
                {key: value.cpu().contiguous() for key, value in tensors.items()}, partial / "circuit.safetensors"
            )

    @classmethod
    def load(cls, folder: Path | str) -> Circuit:
        """The circuit saved in ``folder``. Raises ArtifactError where it is missing, damaged or of another format."""
        folder = Path(folder)
        path, weights = folder / "circuit.json", folder / "circuit.safetensors"
        description = read_json(path)
        if not isinstance(description, dict):
            raise ArtifactError(f"{path}: no circuit; allowed: what Circuit.save wrote")
        if description.get("format") != FORMAT:
            raise ArtifactError(f"{folder}: circuit format {description.get('format')!r}; this version reads {FORMAT}")
        try:
            tensors = load_file(existing(weights))
            ends = {key: tensors.pop(f"edge.{key}").long() for key in _named(tensors, "edge.")}
            tensors = finite(tensors, weights)
        except OSError as error:
            raise ArtifactError(f"{weights}: cannot be read ({error.strerror or error})") from error
        except SafetensorError as error:
            raise ArtifactError(f"{weights}: damaged ({error}); run prune again") from error
        if not _named(tensors, "mean."):
            raise ArtifactError(f"{weights}: has no means of nodes; run prune again")
        try:
            circuit = cls._of(description, tensors, ends, folder)
            circuit._check(description)
        except KeyError as error:
            raise ArtifactError(f"{path}: no {error.args[0]}; run prune again") from error
        except ODD as error:
            if memory_ended(error):
                raise
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise ArtifactError(f"{path}: damaged ({why[:200]}); run prune again") from error
        if not all(map(math.isfinite, circuit.calibration)):
            raise ArtifactError(f"{path}: its calibration is not finite; run prune again")
        return circuit

    def _check(self, description: Mapping[str, Any]) -> None:
        """Raises PartError for nodes, edges and values that do not fit each other, or the numbers of them."""
        widths = {key: len(mean) for key, mean in self.means.items()}
        for found in (self.means, self.scores, *(draw for kind in self.ablations for draw in kind.draws)):
            places = found is not self.means and found is not self.scores  # values can differ by place in the prompt
            if places and set(found) != set(widths):
                raise PartError(f"ablation values of other sites: {', '.join(sorted(set(found) ^ set(widths)))}")
            for key, value in found.items():
                if key not in widths or value.shape[-1:] != (widths[key],) or value.ndim > 1 + places:
                    raise PartError(f"values of {key}: {list(value.shape)}; allowed: one for each node of a site")
        check_parts(self.nodes, self.edges, widths)
        for name, number in (("n_nodes", self.n_nodes), ("n_edges", self.n_edges)):
            if description.get(name, number) != number:
                raise PartError(f"{name} is {description[name]}, but it has {number}")

    @classmethod
    def _of(
        cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor], ends: Mapping[str, Tensor], folder: Path
    ) -> Circuit:
        """The circuit that circuit.json and circuit.safetensors describe; ``ends``: edges that are in the latter."""
        means = _named(tensors, "mean.")
        return cls(
            nodes={key: torch.tensor(value) for key, value in description["nodes"].items()},
            edges={
                key: ends[key] if isinstance(value, int) else _pairs(key, value)
                for key, value in description["edges"].items()
            },
            means=means,
            scores=_named(tensors, "order.") or _named(tensors, "score."),  # order: as it was called before
            ablations=tuple(
                AblationValues.of(Ablation(kind), means, _named(tensors, _draws(i)))
                for i, kind in enumerate(description.get("ablations") or [description["ablation"]])  # one, before
            ),
            calibration=(float(description["calibration"]["scale"]), float(description["calibration"]["shift"])),
            about=dict(description["about"]),
            certificate=description["certificate"],
            folder=folder,
        )


def _pairs(key: str, value: list[list[int]]) -> Int[Tensor, "_n 2"]:
    pairs = torch.tensor(value).view(len(value), -1)
    if len(value) and (pairs.shape[1] != 2 or len(pairs.unique(dim=0)) != len(pairs)):
        raise PartError(f"edges of {key}: not pairs of nodes, each once")
    return pairs.view(-1, 2)


def _place(item: tuple[str, Any]) -> tuple[int, int]:
    layer, kind = split_edge_key(item[0])
    return layer, EDGE_KINDS.index(kind)


def _draws(i: int) -> str:
    """What the names of the i-th ablation's tensors begin with."""
    return f"draws{i or ''}."


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
