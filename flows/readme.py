"""``python -m flows.readme``: writes the study's figures into README.md, from results/summary.json. No stage."""

from __future__ import annotations

import sys

from flows.stage import guarded, load_study
from pipeline.artifacts import read_json
from pipeline.report.readme import filled


def main() -> int:
    """Rewrite the README's blocks; the status. Raises ArtifactError where there is no summary yet."""
    workspace, params = load_study()
    path = workspace.root / "README.md"
    summary = read_json(workspace.results / "summary.json")
    path.write_text(filled(path.read_text(encoding="utf-8"), summary, params.prune.most_scale), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
