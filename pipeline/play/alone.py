"""The page of one circuit alone: its bundle, with what explains its nodes and with prompts of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.config import ExplainConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.shards import TokenStream
from pipeline.explain import assembled, explain_circuit, explain_nodes
from pipeline.explain.prompts import Runs, node_runs
from pipeline.model.scoring import calibrated, mean_loss, score
from pipeline.play.session import Session
from pipeline.play.switches import PlayError, node_names
from pipeline.report.bundle import circuit_bundle, token_texts
from pipeline.report.page import build_circuit_page
from pipeline.rows import Explanation


def page_alone(
    session: Session,
    name: str,
    *,
    facts: Mapping[str, Any],
    explanation: Explanation | None,
    texts: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """HTML of one circuit's page, and a sentence for each text that had to be shortened.

    ``facts``: what is known of the model (its summary.json); ``explanation``: as in explanations/<model>.json;
    ``texts``: prompts to be added to those of the task, without an answer. Raises PlayError for an empty text, for
    texts without an explanation, and for a circuit whose task's pairs are not known.
    """
    circuit, batch = session.circuit(name), pairs_of(session, name)
    said: list[str] = []
    if texts:
        explanation, said = with_texts(session, name, explanation, texts)
    row = {"n_nodes": circuit.n_nodes, "n_edges": circuit.n_edges} | losses(session, circuit, batch)
    bundle = circuit_bundle(
        circuit,
        session.model,
        task=name,
        model_row={"name": session.name, **facts},
        row=row,
        batch=batch,
        texts=token_texts(session.tokenizer),
        explanation=explanation,
    )
    return build_circuit_page(bundle, title=f"{name} in {session.name}"), said


def pairs_of(session: Session, name: str) -> PairBatch:
    """The test pairs of a circuit's task. Raises PlayError where they are not known."""
    examples = session.examples[name]
    batch = examples.batch
    if batch is None:
        raise PlayError(f"{examples.why_none}; name what the circuit was made for (--task)")
    return batch


def losses(session: Session, circuit: Circuit, batch: PairBatch) -> dict[str, float]:
    """Task losses on test pairs, in nats: of the whole model, and of the circuit alone."""

    def drawn(draw: int) -> Float[Tensor, "prompt 2"]:
        masked = circuit(session.model, draw)
        answers = score(session.model, batch, intervene=masked.intervene, cuts=masked.cuts)
        return calibrated(answers, circuit.calibration)

    n = len(circuit.ablation_values.draws)
    return {
        "unpruned_loss": mean_loss(score(session.model, batch)),
        "circuit_loss": sum(mean_loss(drawn(draw)) for draw in range(n)) / n,
    }


def fits(explanation: Explanation, circuit: Circuit, name: str) -> bool:
    """Whether a model's explanation has this very circuit."""
    found = explanation["circuits"].get(name)
    same_model = explanation["model_hash"] == circuit.about.get("model_hash")
    return found is not None and same_model and set(found["nodes"]) == set(node_names(circuit))


def explained(session: Session, name: str, stream: TokenStream, config: ExplainConfig, seed: int) -> Explanation:
    """What the stage explain writes, of this one circuit, all of its nodes."""
    circuit, model = session.circuit(name), session.model
    every = config.model_copy(update={"most_nodes": max(1, circuit.n_nodes)})
    found = explain_circuit(model, circuit, pairs_of(session, name), session.tokenizer, every)
    nodes = explain_nodes(model, found["nodes"], stream=stream, tokenizer=session.tokenizer, config=every, seed=seed)
    return assembled(session.name, str(model.checkpoint), nodes, {name: found}, session.tokenizer)


def with_texts(
    session: Session, name: str, explanation: Explanation | None, texts: Sequence[str]
) -> tuple[Explanation, list[str]]:
    """The explanation with texts after the prompts of the circuit's pairs, and a sentence for each shortened one."""
    if explanation is None:
        raise PlayError(
            "a prompt needs the explanation of the nodes, which needs the model's tokens (dvc repro tokenise)"
        )
    circuit, found = session.circuit(name), explanation["circuits"][name]
    table, prompts = list(explanation["tokens"]), list(found["prompts"])
    nodes = {node: dict(entry) for node, entry in found["nodes"].items()}
    said, pair = [], 1 + max((prompt["pair"] for prompt in prompts), default=-1)
    for number, text in enumerate(texts):
        tokens, n_left_out = session.encode(text)
        if n_left_out:
            n_ctx = session.model.config.n_ctx
            said.append(f"prompt {number + 1} is too long for this model's {n_ctx} tokens: {n_left_out} are left out")
        indices = range(len(table), len(table) + len(tokens))
        table += [session.token(token) for token in tokens]
        nothing = {"answer": None, "other": None, "model": None, "circuit": None}
        prompts.append({"pair": pair + number, "side": "own", "tokens": list(indices), **nothing})
        runs = Runs.of(session.model, circuit, one_prompt(tokens))
        for node, entry in nodes.items():
            key, _, index = node.rpartition(".")
            for which, values in node_runs(runs, key, int(index)).items():
                entry[which] = entry[which] + values
    circuits = {name: {**found, "prompts": prompts, "nodes": nodes}}
    return {**explanation, "tokens": table, "circuits": circuits}, said


def one_prompt(tokens: Sequence[int]) -> PairBatch:
    """A prompt whose answer nobody asks for."""
    return PairBatch.of([tokens], [[0, 0]])
