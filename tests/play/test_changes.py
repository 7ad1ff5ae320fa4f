"""Changes of nodes and edges do what their names say: laws that hold whatever the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.play.changes import Act, PartChange, counterparts_of
from pipeline.play.session import Session
from pipeline.play.switches import PlayError

TEXT, OTHER = "f(<q", "g({q"
NODES = ["0.attn_in.4", "0.attn_k.2", "0.attn_v.5", "0.attn_out.7", "1.mlp_neuron.11", "1.mlp_out.0"]
EDGES = ["0.attn_in.4->0.attn_k.2", "0.attn_v.5->0.attn_out.7", "1.mlp_in.4->1.mlp_neuron.11"]


def choices(
    session: Session, inside: str, changes: Sequence[PartChange] = (), other: str | None = None, **more: Any
) -> Any:
    """Texts and probabilities of the likeliest next tokens with the changes."""
    reply = session.run(TEXT, "closing", inside=inside, changes=changes, other=other, **more)
    return {text: row[-1] for _, text, *row in reply[inside]["tokens"]}


@pytest.mark.parametrize("inside", ["circuit", "model"])
@pytest.mark.parametrize("name", [*NODES, *EDGES])
def test_times_one_and_swapped_with_the_same_text_change_nothing_and_off_is_the_switch(session, name, inside):
    plain = choices(session, inside)
    for change, other in ((PartChange(name, Act.SCALE, 1.0), None), (PartChange(name, Act.SWAP), TEXT)):
        found = choices(session, inside, [change], other)
        assert {text: found[text] for text in plain if text in found} == pytest.approx(plain, abs=2e-4)
    off = {"off_edges": [name]} if "->" in name else {"off_nodes": [name]}
    assert choices(session, inside, [PartChange(name, Act.OFF)]) == pytest.approx(
        choices(session, inside, **off), abs=2e-4
    )
    assert choices(session, inside, [PartChange(name, Act.SET, 50.0)]) != plain


def test_all_that_reads_a_node_swapped_along_its_edges_is_the_node_swapped(session):
    """In the whole model, cut at both of its targets in the circuit: 1.mlp_neuron.11 has no others there."""
    edges = [name for name in session.circuit("closing").edge_names if name.startswith("1.mlp_neuron.11->")]
    by_edges = choices(session, "circuit", [PartChange(name, Act.SWAP) for name in edges], OTHER)
    assert len(edges) == 2 and by_edges == choices(session, "circuit", [PartChange("1.mlp_neuron.11", Act.SWAP)], OTHER)


def test_positions_are_aligned_from_the_start_and_after_the_texts_part_from_the_end():
    assert counterparts_of([9, 1, 2, 3], [9, 1, 5, 3]).tolist() == [0, 1, 2, 3]
    assert counterparts_of([9, 1, 2, 3], [9, 1, 5, 6, 3]).tolist() == [0, 1, 3, 4]
    assert counterparts_of([9, 1, 2, 7, 3], [9, 1, 3]).tolist() == [0, 1, -1, -1, 2]


def test_a_swap_without_another_text_an_unknown_part_and_effects_of_a_swap_are_refused(session):
    with pytest.raises(PlayError, match="write the other prompt"):
        choices(session, "circuit", [PartChange(NODES[0], Act.SWAP)])
    with pytest.raises(PlayError, match=r"the circuit has no node 0\.attn_in\.0"):
        choices(session, "circuit", [PartChange("0.attn_in.0", Act.OFF)])
    with pytest.raises(PlayError, match="effects are not computed"):
        choices(session, "circuit", [PartChange(NODES[0], Act.SWAP)], OTHER, effects=True)
