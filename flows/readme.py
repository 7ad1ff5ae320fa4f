"""``python -m flows.readme``: writes the study's figures into README.md and docs/results.md, from results/summary.json.
No stage."""

from __future__ import annotations

import sys

from flows.stage import guarded, load_study
from pipeline.artifacts import read_json
from pipeline.report.readme import filled

PAGES = ("README.md", "docs/results.md")


def main() -> int:
    """Rewrite the pages' blocks; the status. Raises ArtifactError where there is no summary yet."""
    workspace, params = load_study()
    summary = read_json(workspace.results / "summary.json")
    for path in (workspace.root / name for name in PAGES):
        path.write_text(filled(path.read_text(encoding="utf-8"), summary, params.prune.most_scale), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
