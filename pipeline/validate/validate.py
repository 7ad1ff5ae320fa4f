"""Every test of one circuit, and the verdict (§6)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import cast

from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import Tokenizer
from pipeline.rows import ValidationRow
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.complement import complement
from pipeline.validate.controls import controls
from pipeline.validate.decides import decides
from pipeline.validate.faithfulness import faithfulness_curve
from pipeline.validate.features import features
from pipeline.validate.generalisation import follows
from pipeline.validate.hypotheses import hypotheses
from pipeline.validate.mechanism import mechanism
from pipeline.validate.necessity import necessity
from pipeline.validate.prediction import prediction
from pipeline.validate.published import MECHANISMS, published
from pipeline.validate.sections import SectionWork, Timed, side_by_side, timed
from pipeline.validate.stability import stability
from pipeline.validate.verdict import verdict

OnProgress = Callable[[str], None]


def validate_circuit(
    tested: CircuitUnderTest,
    *,
    generalisation: Mapping[str, PairBatch],
    prune: PruneConfig,
    tokenizer: Tokenizer | None = None,
    with_controls: bool = True,
    stress: bool = True,
    workers: int = 1,
    on_progress: OnProgress = lambda what: None,
) -> ValidationRow:
    """Section → what it found, ``verdict`` and ``seconds`` of each section; ready for JSON. An empty circuit, of a task
    that the bigram table does, has nothing to be tested: no section but those two.

    ``generalisation``: family → generalisation set. ``prune``: the settings by which stability's and the controls'
    circuits are searched for. ``tokenizer``: for the predictions about bracket_counting, None leaves them out.
    ``with_controls``: the method's controls are as many searches as there are controls. ``stress``: also what decides
    no claim and takes long, the complement's stress tests and ``features``. ``workers``: processes that share the work,
    if the model is on a CPU of a system that can fork; any number finds the same. Raises WrongModelError where the
    model is not the circuit's.
    """
    tested.circuit.check_model(tested.model)
    tests = {
        "complement": SectionWork([lambda: complement(tested, stress)]),
        "decides": SectionWork([lambda: decides(tested)]),
        "necessity": SectionWork([lambda: necessity(tested)]),
        "mechanism": SectionWork([lambda: mechanism(tested)]),
        "generalisation": SectionWork([lambda: follows(tested, generalisation)]),
        "hypotheses": SectionWork([lambda: hypotheses(tested)]),
        "faithfulness": SectionWork([lambda: faithfulness_curve(tested)]),
        "stability": stability(tested, prune),
    }
    if tokenizer is not None:
        tests["prediction"] = SectionWork([lambda: prediction(tested, tokenizer)])
    if stress:
        tests["features"] = SectionWork([lambda: features(tested)])
    if tested.circuit.about.get("task") in MECHANISMS:
        tests["published"] = SectionWork([lambda: dict(published(tested))])
    if with_controls:
        tests["controls"] = controls(tested, prune)
    forks = workers > 1 and tested.model.device.type == "cpu" and sys.platform == "linux"
    found = run(tests if tested.circuit.n_nodes else {}, workers if forks else 1, on_progress)
    sections = {name: tests[name].join([result for result, _ in pieces]) for name, pieces in found.items()}
    seconds = {name: sum(seconds for _, seconds in pieces) for name, pieces in found.items()}
    return cast(ValidationRow, sections | {"verdict": verdict(sections), "seconds": seconds})


def run(tests: Mapping[str, SectionWork], workers: int, on_progress: OnProgress) -> dict[str, list[Timed]]:
    """The results of every piece of every section.

    Side by side, sections of many pieces begin first, so that short ones are left to fill the end.
    """
    found: dict[str, list[Timed]] = {}
    if workers == 1:
        for name, section in tests.items():
            on_progress(name)
            found[name] = [timed(piece) for piece in section.pieces]
        return found
    on_progress(f"all tests, in {workers} processes")
    order = sorted(tests, key=lambda name: -len(tests[name].pieces))
    results = iter(side_by_side([piece for name in order for piece in tests[name].pieces], workers))
    found = {name: [next(results) for _ in tests[name].pieces] for name in order}
    return {name: found[name] for name in tests}
