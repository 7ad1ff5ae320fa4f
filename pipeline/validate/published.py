"""The mechanisms that were published for two tasks, looked for in a circuit by rule (Gao et al. 2025).

A string is closed by a *detector* of quotes, a *classifier* of their kind, and a *head* that looks where the one finds
a quote and copies what the other says there to the end. What a variable is, is known in two steps of attention: one
*binds*, by copying the variable's name onto what it is set to; a later one *recalls*, by going from the name's last use
back to that place, and copies the kind to the end. All is read off the circuit's own run, all else at its mean. No
claim depends on it: a circuit may do its task by other means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.graph import Node, Subgraph, ends
from pipeline.rows import PublishedPart, PublishedRow
from pipeline.sites import SITES, Site, node_name, site_key, split_site_key
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.limits import MIN_AUC, MIN_LIFT
from pipeline.validate.published_run import Head, OwnRun, PlaceMask, upstream

Parts = dict[str, PublishedPart]
NO_HEAD = "no head of the circuit keeps a key and a value that could do it"


@torch.no_grad()
def published(tested: CircuitUnderTest) -> PublishedRow:
    """The parts of the published mechanism of the circuit's task, which of them are found, and where; on the few test
    pairs. Raises KeyError for a task without one (``MECHANISMS``)."""
    parts = MECHANISMS[tested.circuit.about["task"]](OwnRun.of(tested))
    missing = [name.replace("_", " ") for name, part in parts.items() if not part["found"]]
    n_found = len(parts) - len(missing)
    line = f"{n_found} of {len(parts)} parts found" + (f"; not found: {', '.join(missing)}" if missing else "")
    return {"parts": parts, "n_found": n_found, "n_parts": len(parts), "line": line}


def quote_parts(run: OwnRun) -> Parts:
    """The copying head; the nodes that lead to its keys and respond at the opening quote, of whichever kind; and those
    that lead to its values and tell the two kinds apart there. Of all heads, where none copies."""
    opening, last = run.opening, run.batch.last
    heads = [copying(run, head, last, opening, "the opening quote") for head in able(run)]
    copies = best(heads, "an attention head copies the kind to the end")
    chosen = [head for head in run.heads if not copies["found"] or named(head) == copies["at"]]
    keys, values = (channels(run, chosen, letter) for letter in "kv")
    detects = {node: run.place_by(run.values(node), opening) for node in upstream(run.circuit, keys)}
    there = opening.int().argmax(-1)
    tells = {node: run.kinds_by(at(run.values(node), there)) for node in upstream(run.circuit, values)}
    return {
        "detector": best_node(detects, "a node responds at the opening quote, of whichever kind"),
        "classifier": best_node(tells, "a node tells the kind of the opening quote"),
        "copying_head": copies,
    }


def binding_parts(run: OwnRun) -> Parts:
    """The head that goes back from the variable's last use and copies its kind to the end; and one of an earlier layer
    that has put the name, or the kind, at the place where it looks."""
    recalled = {head: recalling(run, head) for head in able(run) if head[0] > 0}
    recall = best(
        [part for part, _ in recalled.values()], "a later head goes back there and copies the kind to the end"
    )
    steps = [
        binding(run, step, head, n_after)
        for head, (_, n_after) in recalled.items()
        if named(head) == recall["at"]
        for step in able(run)
        if step[0] < head[0]
    ]
    return {"binding_step": best(steps, "a head binds the name and what it is set to"), "recall_step": recall}


MECHANISMS: Mapping[str, Callable[[OwnRun], Parts]] = {
    "single_double_quote": quote_parts,
    "set_or_string": binding_parts,
    "set_or_string_fixedvarname": binding_parts,
}


def recalling(run: OwnRun, head: Head) -> tuple[PublishedPart, int]:
    """A head as the later step, and how many tokens after the definition it looks: where it has the most weight, of the
    definition itself (0) and all later places before the end."""
    last = run.batch.last
    places = [run.definition, *map(run.after_definition, range(1, int((last - run.differing[1]).min())))]
    look = run.look(head, last)
    weights = [run.of_lesser_kind((look * place).amax(-1)) for place in places]
    n_after = max(range(len(places)), key=weights.__getitem__)
    return copying(run, head, last, places[n_after], placed(n_after)), n_after


def binding(run: OwnRun, head: Head, recall: Head, n_after: int) -> PublishedPart:
    """A head as the earlier step: at the place that the later one reads, it copies the name there, and leads to the
    later one's keys; or, after the definition, it copies the kind there, and leads to the later one's values."""
    place = run.after_definition(n_after) if n_after else run.definition
    query = (run.look(recall, run.batch.last) * place).argmax(-1)
    leads = upstream(run.circuit, channels(run, [recall], "v" if n_after else "k"))
    if n_after:
        part = copying(run, head, query, run.definition, placed(0))
    else:
        seen = run.seen(head, query, run.name)
        part = row(at_it(seen), named(head), says=looks(head, seen, "the name before it"), **seen)
    goes_on = not leads.isdisjoint(channels(run, [head], "v"))
    to = f"head {named(recall)}'s {'values' if n_after else 'keys'}"
    part["says"] += f"; its values {'lead' if goes_on else 'do not lead'} to {to}"
    part["found"] = part["found"] and goes_on
    return part


def copying(run: OwnRun, head: Head, query: Int[Tensor, " prompt"], place: PlaceMask, where: str) -> PublishedPart:
    """Whether a head takes the kind from a place to its query's position: it looks there in prompts of either kind, a
    kept value tells the kinds apart there, and so does what this value writes, at the query's position."""
    seen, look = run.seen(head, query, place), run.look(head, query) * place
    taken = {node: run.kinds_by(average(run.values(node), look)) for node in channels(run, [head], "v")}
    value = max(taken, key=taken.__getitem__)
    feeds = [ends(edge) for edge in Subgraph(run.circuit.nodes, run.circuit.edges).list_edges()]
    written = {
        target: run.kinds_by(at(run.values(target), query))
        for source, target in feeds
        if taken.get(source, 0) >= min(MIN_AUC, taken[value])
    }
    output = max(written, key=written.__getitem__, default=None)
    there, here = taken[value], written[output] if output else 0.5
    says = f"{looks(head, seen, where)}; its value there tells the kinds apart with AUC {there:.2f}"
    nodes = {"value": node_name(*value), "output": node_name(*output) if output else None}
    found = at_it(seen) and min(there, here) >= MIN_AUC
    says += f", what that writes with {here:.2f}"
    return row(found, named(head), says=says, auc=there, output_auc=here, **seen, **nodes)


def able(run: OwnRun) -> list[Head]:
    """The heads that could look somewhere and copy what is there: those with a kept key and a kept value."""
    return [head for head, kept in run.heads.items() if kept["k"] and kept["v"]]


def channels(run: OwnRun, heads: Iterable[Head], letter: str) -> list[Node]:
    """The kept queries, keys or values of some heads."""
    site = {"q": Site.ATTN_Q, "k": Site.ATTN_K, "v": Site.ATTN_V}[letter]
    return [(site_key(head[0], site), index) for head in heads for index in run.heads[head][letter]]


def at(values: Float[Tensor, "prompt pos"], place: Int[Tensor, " prompt"]) -> Float[Tensor, " prompt"]:
    return values.gather(1, place[:, None])[:, 0]


def average(values: Float[Tensor, "prompt pos"], weights: Float[Tensor, "prompt pos"]) -> Float[Tensor, " prompt"]:
    """Weighted mean of each prompt; 0 where it has no weight."""
    total = weights.sum(-1)
    return torch.where(total > 0, (values.double() * weights).sum(-1) / total, 0)


def named(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def placed(n_after: int) -> str:
    return f"{n_after} token{'s' if n_after > 1 else ''} after the definition" if n_after else "the definition"


def at_it(seen: Mapping[str, float]) -> bool:
    """Whether a head looks at a place: more than at other tokens, and more than one that looks at all of them alike."""
    return seen["look_auc"] >= MIN_AUC and seen["lift"] >= MIN_LIFT


def looks(head: Head, seen: Mapping[str, float], where: str) -> str:
    return f"head {named(head)} has {seen['weight']:.0%} of its weight on {where}, {seen['lift']:.1f} tokens' share"


def row(found: bool, place: str | None, *, says: str, **numbers: float | str | None) -> PublishedPart:
    """A part; what was not measured of it is None."""
    empty = dict.fromkeys(("weight", "lift", "look_auc", "auc", "output_auc", "value", "output"))
    known = {"statement": "", "found": found, "n_found": int(found), "at": place}
    return cast(PublishedPart, known | empty | numbers | {"says": says})


def best(parts: Sequence[PublishedPart], statement: str) -> PublishedPart:
    """The head that is the part, or is nearest to it: of several, the one with the most weight."""
    chosen = max(parts, key=lambda part: (part["found"], part["weight"] or 0), default=row(False, None, says=NO_HEAD))
    return {**chosen, "statement": statement, "n_found": sum(part["found"] for part in parts)}


def best_node(aucs: Mapping[Node, float], statement: str) -> PublishedPart:
    """The node with the largest AUC, the last in the forward pass of several: the part is found where it is enough."""
    if not aucs:
        return {**row(False, None, says="no node of the circuit leads there"), "statement": statement}
    node = max(aucs, key=lambda node: (aucs[node], *forward(node)))
    n_found, name = sum(auc >= MIN_AUC for auc in aucs.values()), node_name(*node)
    says = f"{n_found} of {len(aucs)} nodes that lead there; best {name}, AUC {aucs[node]:.2f}"
    return {**row(n_found > 0, name, says=says, auc=aucs[node]), "statement": statement, "n_found": n_found}


def forward(node: Node) -> tuple[int, int, int]:
    """Layer, site and index: later ones are larger."""
    layer, site = split_site_key(node[0])
    return layer, SITES.index(site), node[1]
