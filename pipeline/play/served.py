"""What the server of ``sparse-circuits play`` sends of a session: the page, and the bundle of each circuit of it.

The page is that of a circuit (web/circuit.js); its prompts are run here, by ``Session.run``.
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts import read_json
from pipeline.data.pairs import PairBatch
from pipeline.data.tasks import TaskError
from pipeline.play.session import Session
from pipeline.report.bundle import circuit_bundle, token_texts
from pipeline.report.page import shell
from pipeline.report.runnable import run_part
from pipeline.report.templating import render
from pipeline.rows import Explanation


def play_page(session: Session) -> str:
    """HTML of all circuits' pages, and of one for the model alone; it asks its own server, nobody else."""
    described = {
        name: {"circuit": circuit, "folder": circuit.folder, "task": str(circuit.about.get("task", name))}
        for name, circuit in session.circuits.items()
    }
    body = render("page.html.j2", "pipeline.play", model=session.name, circuits=described)
    return shell(body, title=f"{session.name} · play", first="play", served=True)


def model_bundle(session: Session) -> dict[str, Any]:
    """The bundle of the page of the model without a circuit: it has no drawing."""
    run: dict[str, Any] = {"pairs": [], "answers": [], "prompts": [], "why_none": None}
    return {"model": session.name, "task": None, "drawing": None, "run": run}


def served_bundle(session: Session, name: str) -> dict[str, Any]:
    """The bundle of one circuit's page, with its task's prompts as text, or ``why_none`` where these are not known.
    Raises PlayError for a circuit that the session does not have."""
    session.circuit(name)  # refuses an unknown name
    task = session.tasks[name]
    batch = None if isinstance(task, TaskError) else task.batch("test")
    bundle = bundle_of(session, name, batch, stored_explanation(session, name))
    pairs = bundle["run"]["pairs"]
    prompts = [[session.tokenizer.decode(tokens) for tokens, _ in pair] for pair in pairs]
    bundle["run"] |= {"prompts": prompts, "why_none": str(task) if isinstance(task, TaskError) else None}
    return bundle


def bundle_of(
    session: Session, name: str, batch: PairBatch | None, explanation: Explanation | None, **losses: float
) -> dict[str, Any]:
    """The bundle of one circuit with what its page needs to run prompts; ``batch``: its task's test pairs (None: not
    known); ``losses``: ``unpruned_loss``, ``circuit_loss`` on these, in nats."""
    circuit, summary = session.circuit(name), session.folder / "summary.json"
    bundle = circuit_bundle(
        circuit,
        session.model,
        task=name,
        model_row={"name": session.name} | (read_json(summary) if summary.is_file() else {}),
        row={"n_nodes": circuit.n_nodes, "n_edges": circuit.n_edges} | losses,
        batch=batch,
        texts=token_texts(session.tokenizer),
        explanation=explanation,
    )
    return bundle | {"run": run_part(circuit, session.means, batch)}


def stored_explanation(session: Session, name: str) -> Explanation | None:
    """The study's explanation where it is of this very circuit."""
    circuit, found = session.circuit(name), session.explanation
    stored = found["circuits"].get(name) if found else None
    if stored is None:
        return None
    own = session.workspace.circuits(session.folder.resolve().name) / str(circuit.about.get("task"))
    same = circuit.folder is not None and circuit.folder.resolve() == own.resolve()
    return found if same or set(stored["nodes"]) == set(circuit.node_names) else None
