"""Stage generalisation: second test sets of the tasks, which tell apart algorithms that agree on the tasks' pairs."""

from __future__ import annotations

from flows.stage import load_study, main, stage_flow
from pipeline.data.generalisation import GeneralisationSet, make_generalisation_sets
from pipeline.data.tasks import TaskSet
from pipeline.data.tokenizer import Tokenizer


@stage_flow
def generalisation() -> None:
    """Write data/generalisation from data/tasks, data/tokens and the held-out part of data/corpus."""
    workspace, params = load_study()
    make_generalisation_sets(
        params.generalisation,
        tasks=TaskSet.load(workspace.tasks),
        tokenizer=Tokenizer.load(workspace.tokens),
        corpus=workspace.corpus / "corpus.parquet",
        n_ctx=min(model.n_ctx for model in params.models.values()),
        seed=params.seed,
        folder=workspace.generalisation,
    )
    written = GeneralisationSet.load(workspace.generalisation)
    for family in written.all_families:
        lacking = {task: written.reason(task, family) for task in written.names if written.reason(task, family)}
        print(f"generalisation: {family}: {len(written.names) - len(lacking)} of {len(written.names)} tasks")
        for task, reason in lacking.items():
            print(f"  absent: {task}: {reason}")


if __name__ == "__main__":
    main(generalisation, per_model=False)
