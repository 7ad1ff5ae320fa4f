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
from pipeline.validate.controls import control_section
from pipeline.validate.faithfulness import faithfulness_curve
from pipeline.validate.features import features
from pipeline.validate.generalisation import follows
from pipeline.validate.hypotheses import hypotheses
from pipeline.validate.mechanism import mechanism
from pipeline.validate.necessity import necessity
from pipeline.validate.prediction import prediction
from pipeline.validate.sections import Done, Section, side_by_side, timed
from pipeline.validate.stability import stability_section
from pipeline.validate.verdict import verdict

OnProgress = Callable[[str], None]


def validate_circuit(
    tested: CircuitUnderTest,
    *,
    generalisation: Mapping[str, PairBatch],
    prune: PruneConfig,
    tokenizer: Tokenizer | None = None,
    with_controls: bool = True,
    workers: int = 1,
    on_progress: OnProgress = lambda what: None,
) -> ValidationRow:
    """Section → what it found, ``verdict`` and ``seconds`` of each section; ready for JSON. An empty circuit, of a task
    that the bigram table does, has nothing to be tested: no section but those two.

    ``generalisation``: family → second test set. ``prune``: the settings by which stability's and the controls'
    circuits are searched for. ``tokenizer``: for the predictions about bracket_counting, None leaves them out.
    ``with_controls``: the method's controls are as many searches as there are controls. ``workers``: processes that
    share the work, if the model is on a CPU of a system that can fork; what is found is the same for any number. Raises
    WrongModelError where the model is not the circuit's.
    """
    tested.circuit.check_model(tested.model)
    tests = {
        "complement": Section.of(lambda: complement(tested)),
        "necessity": Section.of(lambda: necessity(tested)),
        "mechanism": Section.of(lambda: mechanism(tested)),
        "generalisation": Section.of(lambda: follows(tested, generalisation)),
        "hypotheses": Section.of(lambda: hypotheses(tested)),
        "faithfulness": Section.of(lambda: faithfulness_curve(tested)),
        "features": Section.of(lambda: features(tested)),
        "stability": stability_section(tested, prune),
    }
    if tokenizer is not None:
        tests["prediction"] = Section.of(lambda: prediction(tested, tokenizer))
    if with_controls:
        tests["controls"] = control_section(tested, prune)
    several = workers > 1 and tested.model.device.type == "cpu" and sys.platform == "linux"
    found = done(tests if tested.circuit.n_nodes else {}, workers if several else 1, on_progress)
    sections = {name: tests[name].joined([result for result, _ in parts]) for name, parts in found.items()}
    seconds = {name: sum(seconds for _, seconds in parts) for name, parts in found.items()}
    return cast(ValidationRow, sections | {"verdict": verdict(sections), "seconds": seconds})


def done(tests: Mapping[str, Section], workers: int, on_progress: OnProgress) -> dict[str, list[Done]]:
    """What every part of every section gave.

    Side by side, sections of many parts begin first, so that short ones are left to fill the end.
    """
    if workers == 1:
        return {name: in_turn(name, section, on_progress) for name, section in tests.items()}
    on_progress(f"all tests, in {workers} processes")
    order = sorted(tests, key=lambda name: -len(tests[name].parts))
    results = iter(side_by_side([part for name in order for part in tests[name].parts], workers))
    found = {name: [next(results) for _ in tests[name].parts] for name in order}
    return {name: found[name] for name in tests}


def in_turn(name: str, section: Section, on_progress: OnProgress) -> list[Done]:
    on_progress(name)
    return [timed(part) for part in section.parts]
