"""A sheet for readers who judge labels: node uses drawn at random, with their label and their values on two pairs.

``python -m benchmarks.label_sheet --seed 20261130`` prints it; a use is a node in the circuit of one task of one
sparse model. A reader sees label and values only, and writes yes or no into the last column of the table.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.whitespace import all_visible

N_USES = 30
SURE = 0.9  # an AUC that counts as surely told apart
HEAD = """# {n} labels, to be judged

Drawn at random (seed {seed}) from {total} uses of nodes in circuits of sparse models, by
`python -m benchmarks.label_sheet --seed {seed}`. A label is accepted where it says, rightly and usefully, what the
values below it show: where the node is high or low, or where the two prompts of a pair (a and b) differ at it. Numbers
in it are means over all test pairs. *After `x`* is the side of a pair that has `x` where its prompts first differ (or
soon after), and *at the end* the last token, after which the model answers. AUC: how surely the label's two groups are
told apart by the value, on pairs that it was not chosen on; none where no place stands out. It is at least {sure} for
{n_sure} of all uses.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="the day of the study's commit as a number: 20261130")
    parser.add_argument("--explanations", type=Path, default=Path("explanations"))
    asked = parser.parse_args()
    uses = [
        use
        for path in sorted(asked.explanations.glob("sparse_*.json"))
        for use in uses_of(json.loads(path.read_text()))
    ]
    drawn = random.Random(asked.seed).sample(uses, min(N_USES, len(uses)))
    n_sure = sum((use["label"]["score"] or 0) >= SURE for use in uses)
    print(HEAD.format(n=len(drawn), seed=asked.seed, total=len(uses), sure=SURE, n_sure=n_sure))
    print("| | node | label in the task | AUC | accepted |\n|---|---|---|---|---|")
    for number, use in enumerate(drawn, start=1):
        label = use["label"]
        score = "" if label["score"] is None else f"{label['score']:.2f}"
        print(f"| {number} | {use['name']} | {label['text']} · {label['role']} | {score} | |")
    for number, use in enumerate(drawn, start=1):
        print(f"\n## {number}. {use['name']}\n\n{use['label']['text']} · {use['label']['role']}\n")
        print("\n".join(f"    {line}" for line in use["values"]))


def uses_of(explanation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of every circuit of one model: ``name``, ``label``, ``values`` (a line a prompt)."""
    for task, circuit in explanation["circuits"].items():
        for node, found in circuit["nodes"].items():
            prompts = zip(circuit["prompts"], found["circuit"], strict=True)
            yield {
                "name": f"{explanation['model']}, {task}, {node}",
                "label": found["task_label"],
                "values": [line(prompt, values, explanation["tokens"]) for prompt, values in prompts],
            }


def line(prompt: Mapping[str, Any], values: list[float], texts: list[str]) -> str:
    """``a: rows 0 | = 0 | [[ 4.1 → ]]``: every token with the node's value at it, and the answer."""
    seen = (f"{all_visible(texts[token])} {value:g}" for token, value in zip(prompt["tokens"], values, strict=True))
    return f"{prompt['side']}: {' | '.join(seen)} → {all_visible(prompt['answer'])}"


if __name__ == "__main__":
    main()
