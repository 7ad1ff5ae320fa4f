"""A session's replies: against the model and its circuit called directly, and against sums worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.interventions import edge_weights
from pipeline.data.pairs import PairBatch
from pipeline.data.tasks import TaskError
from pipeline.model.record import record
from pipeline.model.scoring import calibrated, score
from pipeline.play.served import model_bundle, served_bundle, stored_explanation
from pipeline.play.session import Inside
from pipeline.play.switches import PlayError, Switches, by_node
from tests.play.playing import ANSWERS, EDGES

TEXT = "f(<ab"
CLOSE = {"rel": 2e-3, "abs": 1e-6}  # replies are rounded to 4 significant digits


def probabilities(choice, which=-1):
    """Token → probability, of the tokens that a choice lists."""
    return {row[0]: row[2:][which] for row in choice["tokens"]}


def assert_same(choice, logits, which=-1):
    """The choice is that of the logits, in so far as it lists tokens."""
    p = logits.softmax(-1)
    listed = probabilities(choice, which)
    assert listed == {token: pytest.approx(float(p[token]), **CLOSE) for token in listed}
    assert int(p.argmax()) in listed


def test_without_a_circuit_the_reply_is_the_models_choice(session, model, tokens_of):
    reply = session.run(TEXT)
    assert_same(reply["model"], model(tokens_of(TEXT))[0, -1])
    assert reply["tokens"] == ["<|endoftext|>", *TEXT] and reply["at"] == len(TEXT)
    assert reply["circuit"] is None and reply["model"]["first"] is None and reply["n_left_out"] == 0


def test_the_circuits_choice_is_that_of_the_circuit_called_directly(session, model, circuit, tokens_of):
    reply = session.run(TEXT, "closing")
    assert_same(reply["circuit"], circuit(model)(tokens_of(TEXT))[0, -1])
    assert_same(reply["model"], model(tokens_of(TEXT))[0, -1])
    assert all(len(row) == 3 for name in ("model", "circuit") for row in reply[name]["tokens"])


def test_the_choice_is_after_the_token_that_was_asked_for(session, model, tokens_of):
    assert_same(session.run(TEXT, at=2)["model"], model(tokens_of(TEXT))[0, 2])
    assert session.run(TEXT, at=99)["at"] == len(TEXT)  # the text has become shorter since


def test_a_circuit_with_parts_off_is_the_circuit_without_them(session, model, circuit, tokens_of):
    edges = {
        "0.attn_in->attn_q": EDGES["0.attn_in->attn_q"][1:],
        "1.mlp_in->mlp_neuron": [ends for ends in EDGES["1.mlp_in->mlp_neuron"] if ends[1] != 30],
        "1.mlp_neuron->mlp_out": [ends for ends in EDGES["1.mlp_neuron->mlp_out"] if ends[0] != 30],
    }
    less = replace(
        circuit,
        nodes=circuit.nodes | {"1.mlp_neuron": torch.tensor([11])},
        edges=circuit.edges | {key: torch.tensor(pairs) for key, pairs in edges.items()},
    )
    reply = session.run(TEXT, "closing", ["1.mlp_neuron.30"], ["0.attn_in.1->0.attn_q.2"])
    assert_same(reply["circuit"], less(model)(tokens_of(TEXT))[0, -1])
    assert_same(reply["circuit"], circuit(model)(tokens_of(TEXT))[0, -1], which=0)
    assert all(len(row) == 3 for row in reply["model"]["tokens"])


def test_a_node_off_in_the_whole_model_has_its_ablation_value_and_all_else_is_live(session, model, circuit, tokens_of):
    def hold(key, x):
        if key == "0.attn_in":
            x[..., 4] = circuit.means[key][4]
        return x

    reply = session.run(TEXT, "closing", ["0.attn_in.4"], inside=Inside.MODEL)
    assert_same(reply["model"], model(tokens_of(TEXT), intervene=hold)[0, -1])
    assert_same(reply["model"], model(tokens_of(TEXT))[0, -1], which=0)
    assert all(len(row) == 3 for row in reply["circuit"]["tokens"])


def test_an_edge_off_moves_its_target_by_the_weight_times_what_its_source_loses(session, model, circuit, tokens_of):
    """Query 3 of layer 0 reads attn_in 9: by hand, and no other node of the first layer's attention input changes."""
    reply = session.run(TEXT, "closing", off_edges=["0.attn_in.9->0.attn_q.3"], inside=Inside.MODEL)
    nodes = dict(zip(circuit.node_names, zip(*reply["nodes"].values(), strict=True), strict=True))
    weight = float(edge_weights(model, "0.attn_in->attn_q")[3, 9])
    source = float(record(model, tokens_of(TEXT))[1]["0.attn_in"][0, -1, 9])
    now, before, _ = nodes["0.attn_q.3"]
    assert now - before == pytest.approx(weight * (float(circuit.means["0.attn_in"][9]) - source), abs=2e-3)
    assert nodes["0.attn_in.9"][0] == nodes["0.attn_in.9"][1] and nodes["0.attn_k.3"][0] == nodes["0.attn_k.3"][1]


def test_all_parts_off_in_the_circuit_is_the_model_with_everything_ablated(session, model, circuit, tokens_of):
    nothing = replace(circuit, nodes={}, edges={})
    reply = session.run(TEXT, "closing", circuit.node_names, circuit.edge_names)
    assert_same(reply["circuit"], nothing(model)(tokens_of(TEXT))[0, -1])
    assert reply["nodes"]["now"] == pytest.approx(by_node(circuit, circuit.means).tolist(), **CLOSE)


def test_values_are_those_that_the_rest_of_the_model_saw(session, model, circuit, tokens_of):
    _, values = record(model, tokens_of(TEXT), circuit(model).intervene)
    whole = record(model, tokens_of(TEXT))[1]
    for inside, there in ((Inside.CIRCUIT, None), (Inside.MODEL, whole)):
        reply = session.run(TEXT, "closing", inside=inside, at=3, node="0.attn_in.9")
        seen = (there or values)["0.attn_in"][0, :, 9]
        assert reply["series"]["now"] == reply["series"]["before"] == pytest.approx(seen.tolist(), **CLOSE)
        at = circuit.node_names.index("0.attn_in.9")
        assert reply["nodes"]["now"][at] == reply["series"]["now"][3]
        assert reply["nodes"]["largest"][at] == pytest.approx(float(seen.abs().max()), **CLOSE)


@pytest.mark.parametrize("inside", Inside)
def test_the_effect_of_a_node_is_what_switching_it_off_changes(session, inside):
    off = {"off_nodes": ["0.attn_out.7"], "inside": inside}
    effects = session.run(TEXT, "closing", answers=ANSWERS, effects=True, **off)["effects"]

    def margin(more):
        circuit = session.circuits["closing"]
        switches = Switches.of(circuit, ["0.attn_out.7", *more], ())
        changes = switches.changes(session.model, alone=inside is Inside.CIRCUIT)
        tokens = torch.tensor([session.encode(TEXT)[0]])
        logits = record(session.model, tokens, **changes)[0][0, -1]
        return float(logits[ANSWERS[0]] - logits[ANSWERS[1]])

    names = session.circuits["closing"].node_names
    expected = [margin([name]) - margin([]) for name in names]
    assert effects["of"] == pytest.approx(expected, rel=2e-3, abs=2e-5)
    assert effects["of"][names.index("0.attn_out.7")] == pytest.approx(0, abs=2e-6) and effects["tokens"] == [">", "}"]


def test_the_two_answers_are_calibrated_as_the_circuits_loss_is(session, model, circuit, tokens_of):
    """Of the circuit only; and their tokens' own probabilities are not touched."""
    reply = session.run(TEXT, "closing", answers=ANSWERS)
    logits = circuit(model)(tokens_of(TEXT))[0, -1]
    right, wrong = calibrated(logits[ANSWERS].repeat(2, 1), circuit.calibration)[0]
    assert reply["circuit"]["first"] == [pytest.approx(1 / (1 + math.exp(wrong - right)), **CLOSE)]
    assert probabilities(reply["circuit"])[ANSWERS[0]] == pytest.approx(float(logits.softmax(-1)[ANSWERS[0]]), **CLOSE)
    batch = PairBatch(
        tokens_of(TEXT).repeat(2, 1), torch.tensor([len(TEXT)] * 2), torch.tensor([ANSWERS, ANSWERS[::-1]])
    )
    first, second = score(model, batch)[0]
    assert reply["model"]["first"] == [pytest.approx(1 / (1 + math.exp(second - first)), **CLOSE)]


def test_a_long_text_keeps_its_end_and_says_what_is_left_out(session, model):
    text = "".join(chr(97 + i % 26) for i in range(50))
    reply = session.run(text, "closing")
    assert reply["n_left_out"] == 50 - 31 and reply["tokens"] == ["<|endoftext|>", *text[-31:]]
    assert reply["model"] == session.run(text[-31:])["model"]


def test_a_resampled_circuit_plays_with_its_first_draw(session, circuit):
    draws = {key: torch.stack([mean + 1, mean]) for key, mean in circuit.means.items()}
    resampled = replace(circuit, ablations=(AblationValues.resampled(draws),))
    other = replace(session, circuits={"closing": resampled})
    assert served_bundle(other, "closing")["run"]["ablation"] == Ablation.RESAMPLE.words
    off = other.run(TEXT, "closing", circuit.node_names)
    assert off["nodes"]["now"] == pytest.approx(
        [x + 1 for x in by_node(circuit, circuit.means).tolist()], rel=1e-3, abs=1e-3
    )


def test_a_deciding_circuit_plays_before_the_means_since_one_prompt_has_no_other(session, circuit):
    both = (AblationValues.of(Ablation.COUNTERFACTUAL, circuit.means), AblationValues.at_means(circuit.means))
    deciding = replace(session, circuits={"closing": replace(circuit, ablations=both)})
    assert served_bundle(deciding, "closing")["run"]["ablation"] == Ablation.MEAN.words
    names = circuit.node_names[:1]
    assert deciding.run(TEXT, "closing", names)["circuit"] == session.run(TEXT, "closing", names)["circuit"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": ""}, "the text is empty"),
        ({"circuit": "brackets"}, "no circuit 'brackets'; there are: closing"),
        ({"off_nodes": ["0.attn_in.2"]}, "the circuit has no node 0.attn_in.2"),
        ({"off_edges": ["0.attn_in.2->0.attn_q.2"]}, "the circuit has no edge"),
        ({"node": "7.attn_in.1"}, "the circuit has no node 7.attn_in.1"),
        ({"at": -1}, "token -1; allowed: 0 to 5"),
        ({"answers": [1]}, "allowed: two tokens from 0 to 256"),
        ({"answers": [1, 257]}, "allowed: two tokens from 0 to 256"),
        ({"circuit": None, "off_nodes": ["0.attn_in.1"]}, "choose a circuit first"),
        ({"circuit": None, "head": [0, 0]}, "choose a circuit first"),
        ({"head": [2, 0]}, "head 2.0; allowed: 2 layers of 4 heads"),
        ({"head": [0, -1]}, "head 0.-1; allowed"),
    ],
)
def test_what_cannot_be_done_is_refused_in_plain_words(session, arguments, said):
    with pytest.raises(PlayError, match=said.replace("?", r"\?")):
        session.run(**({"text": TEXT, "circuit": "closing"} | arguments))


@pytest.mark.parametrize("inside", Inside)
def test_a_head_looks_where_its_queries_and_keys_say(session, model, circuit, tokens_of, inside):
    """By hand: the softmax of q·k/√d_head over the sink and the tokens so far."""
    run = circuit(model).intervene if inside is Inside.CIRCUIT else None
    values = record(model, tokens_of(TEXT), run, circuit(model).cuts if run else None)[1]
    q, k = (values[f"0.attn_{letter}"][0, :, 4:8].double() for letter in "qk")
    scores = [float(q[3] @ k[key]) / 2 for key in range(4)]
    powers = [math.exp(score) for score in (float(model.transformer["h"][0].attn.sink_logit[1]), *scores)]
    expected = [power / sum(powers) for power in powers[1:]]
    assert session.run(TEXT, "closing", inside=inside, at=3, head=[0, 1])["look"] == pytest.approx(expected, **CLOSE)


def test_a_circuits_bundle_has_its_drawing_and_prompts_and_the_models_has_neither(session, circuit):
    bundle = served_bundle(session, "closing")
    assert bundle["drawing"]["edges"]["weight"] and bundle["task"] == "closing" and bundle["explanation"] is None
    assert bundle["run"]["answers"] == ANSWERS and bundle["run"]["prompts"] == [["<ab", "{ab"]]
    assert [[right for _, right in pair] for pair in bundle["run"]["pairs"]] == [ANSWERS]
    unknown = replace(session, tasks={"closing": TaskError("closing: no such task")})
    run = served_bundle(unknown, "closing")["run"]
    assert run["pairs"] == run["prompts"] == run["answers"] == [] and "no such task" in run["why_none"]
    assert model_bundle(session)["drawing"] is None and model_bundle(session)["run"]["pairs"] == []
    with pytest.raises(PlayError, match="no circuit 'brackets'"):
        served_bundle(session, "brackets")


def test_an_explanation_is_served_with_the_circuit_that_it_is_of_alone(session, circuit):
    def explained(nodes):
        return replace(session, explanation={"circuits": {"closing": {"nodes": dict.fromkeys(nodes, {})}}})

    ours = explained(circuit.node_names)
    assert stored_explanation(ours, "closing") is ours.explanation
    assert stored_explanation(explained(circuit.node_names[1:]), "closing") is None
    assert stored_explanation(session, "closing") is None


def test_a_model_without_circuits_plays(model, session):
    bare = replace(session, circuits={}, tasks={})
    assert bare.run(TEXT)["model"] == session.run(TEXT)["model"]
