"""The page of one circuit alone: its bundle, with an explanation of its nodes and with prompts of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.artifacts import read_json
from pipeline.config import ExplainConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.shards import STATS_FILE, TokenStream
from pipeline.data.tasks import TaskError
from pipeline.explain import assembled, explain_circuit, explain_nodes
from pipeline.explain.prompts import PromptRuns, node_runs
from pipeline.model.scoring import mean_loss, score
from pipeline.play.served import bundle_of, stored_explanation
from pipeline.play.session import Session
from pipeline.play.switches import PlayError
from pipeline.prune.checkpoint import circuit_loss
from pipeline.report.packed_model import pack_model
from pipeline.report.page import MOST_BYTES, build_circuit_page
from pipeline.rows import Explanation, OfModel, ValidationRow
from pipeline.sites import split_node_name


def page_alone(
    session: Session, name: str, explanation: Explanation | None, texts: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """HTML of one circuit's page, and a sentence for each text that had to be shortened.

    ``explanation``: as in explanations/<model>.json; ``texts``: prompts to be added to those of the task, without an
    answer. Raises PlayError for an empty text, for texts without an explanation, and for a circuit whose task's pairs
    are not known.
    """
    batch = pairs_of(session, name)
    said: list[str] = []
    if texts:
        explanation, said = with_texts(session, name, explanation, texts)
    unpruned, own = mean_loss(score(session.model, batch)), circuit_loss(session.circuit(name), session.model, batch)
    bundle = bundle_of(session, name, batch, explanation, unpruned_loss=unpruned, circuit_loss=own)
    options = session.model.config.options  # which the page's own forward pass lacks
    if options:
        bundle["run"]["why_not"] = f"The page does not compute {', '.join(options)}, which this model has"
    packed = "" if options else pack_model(session.model, session.means, session.tokenizer)
    packed = packed if len(packed) <= MOST_BYTES else ""
    tested = validation_of(session, name)
    return build_circuit_page(bundle, title=f"{name} in {session.name}", validation=tested, packed_model=packed), said


def validation_of(session: Session, name: str) -> ValidationRow | None:
    """What the stage validate says of this very circuit; None where it did not test it."""
    circuit, model = session.circuit(name), session.folder.resolve().name
    task = str(circuit.about.get("task"))
    own, path = session.workspace.circuits(model) / task, session.workspace.validations(model)
    if circuit.folder is None or circuit.folder.resolve() != own.resolve() or not path.is_file():
        return None
    found: OfModel[ValidationRow] = read_json(path)
    tested = found["model_hash"] == session.model.checkpoint and task in found["tasks"]
    return found["tasks"][task] if tested else None


def pairs_of(session: Session, name: str) -> PairBatch:
    """The test pairs of a circuit's task. Raises PlayError where they are not known."""
    task = session.tasks[name]
    if isinstance(task, TaskError):
        raise PlayError(f"{task}; name what the circuit was made for (--task)")
    return task.batch("test")


def explanation_of(session: Session, name: str, config: ExplainConfig, seed: int) -> Explanation | None:
    """The study's explanation where it is of this very circuit, else one of this circuit alone, with all of its nodes;
    None where that needs the model's tokens and they are missing."""
    circuit, model, tokenizer = session.circuit(name), session.model, session.tokenizer
    stored = stored_explanation(session, name)
    if stored is not None and set(stored["circuits"][name]["nodes"]) == set(circuit.node_names):
        return stored
    if not (session.tokens / STATS_FILE).is_file():
        return None
    every = config.model_copy(update={"most_nodes": max(1, circuit.n_nodes)})
    stream = TokenStream.open(session.tokens, "validation")
    found = explain_circuit(model, circuit, pairs_of(session, name), tokenizer, every)
    nodes = explain_nodes(model, found["nodes"], stream=stream, tokenizer=tokenizer, config=every, seed=seed)
    return assembled(session.name, str(model.checkpoint), nodes, {name: found}, tokenizer)


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
        runs = PromptRuns.of(session.model, circuit, PairBatch.of([tokens], [[0, 0]]))  # nobody asks for an answer
        for node, entry in nodes.items():
            for which, values in node_runs(runs, *split_node_name(node)).items():
                entry[which] = entry[which] + values
    circuits = {name: {**found, "prompts": prompts, "nodes": nodes}}
    return {**explanation, "tokens": table, "circuits": circuits}, said
