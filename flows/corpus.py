"""Stage corpus: what the models read, from the sources that params.yaml lists."""

from __future__ import annotations

from flows.stage import load_study, main, stage_flow
from pipeline.data.corpus import build_corpus
from pipeline.data.tasks import prompt_tails


@stage_flow
def corpus() -> None:
    """Write data/corpus."""
    workspace, params = load_study()
    report = build_corpus(
        config=params.corpus,
        seed=params.seed,
        lock=workspace.root / "requirements.lock",
        tails=prompt_tails(params.tasks, params.seed),
        folder=workspace.corpus,
    )
    print(
        f"corpus: {report['n_functions']['train']:,} functions to train on, "
        f"{report['n_functions']['validation']:,} to validate; none of {report['contamination']['n_tails']:,} "
        f"prompt tails occurs in them (hash {report['hash'][:16]})"
    )


if __name__ == "__main__":
    main(corpus, per_model=False)
