"""Every test of one circuit, and the verdict (METHOD §6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import Tokenizer
from pipeline.validate.claim import Claim
from pipeline.validate.complement import complement
from pipeline.validate.controls import controls
from pipeline.validate.faithfulness import faithfulness_curve
from pipeline.validate.features import features
from pipeline.validate.generalisation import generalisation
from pipeline.validate.hypotheses import hypotheses
from pipeline.validate.mechanism import mechanism
from pipeline.validate.necessity import necessity
from pipeline.validate.prediction import prediction
from pipeline.validate.stability import stability
from pipeline.validate.verdict import verdict

Tick = Callable[[str], None]


def validate_circuit(
    claim: Claim,
    *,
    rivals: Mapping[str, PairBatch],
    prune: PruneConfig,
    tokenizer: Tokenizer | None = None,
    with_controls: bool = True,
    tick: Tick = lambda what: None,
) -> dict[str, Any]:
    """Section → what it found, ``verdict`` and ``seconds`` of each section; ready for JSON. An empty circuit, of a task
    that the bigram table does, has nothing to be tested: no section but those two.

    ``rivals``: family → second test set. ``prune``: the settings by which stability's and the controls' circuits are
    searched for. ``tokenizer``: for the predictions about bracket_counting, None leaves them out. ``with_controls``:
    the method's controls are as many searches as there are controls. Raises WrongModelError where the model is not the
    circuit's.
    """
    claim.circuit.check_model(claim.model)
    tests: dict[str, Callable[[], dict[str, Any]]] = {
        "complement": lambda: complement(claim),
        "necessity": lambda: necessity(claim),
        "mechanism": lambda: mechanism(claim),
        "generalisation": lambda: generalisation(claim, rivals),
        "hypotheses": lambda: hypotheses(claim),
        "faithfulness": lambda: faithfulness_curve(claim),
        "features": lambda: features(claim),
        "stability": lambda: stability(claim, prune),
    }
    if tokenizer is not None:
        tests["prediction"] = lambda: prediction(claim, tokenizer)
    if with_controls:
        tests["controls"] = lambda: controls(claim, prune)
    sections, seconds = {}, {}
    for name, run in tests.items() if claim.circuit.n_nodes else ():
        tick(name)
        began = time.perf_counter()
        sections[name] = run()
        seconds[name] = time.perf_counter() - began
    return sections | {"verdict": verdict(sections), "seconds": seconds}
