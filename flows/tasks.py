"""Stage tasks: the contrast pairs of the twenty tasks, in this study's tokens."""

from __future__ import annotations

from flows.stage import load_study, main, stage_flow
from pipeline.data.tasks import TaskSet, encode_tasks
from pipeline.data.tokenizer import Tokenizer


@stage_flow
def tasks() -> None:
    """Write data/tasks from data/tokens."""
    workspace, params = load_study()
    encode_tasks(params.tasks, params.seed, Tokenizer.load(workspace.tokens), workspace.tasks)
    written = TaskSet.load(workspace.tasks)
    lost = {name: written.reason(name) for name in written.names if not written.expressible(name)}
    print(f"tasks: {len(written.names) - len(lost)} of {len(written.names)} expressible in this vocabulary")
    for name, reason in lost.items():
        print(f"  not expressible: {name}: {reason}")


if __name__ == "__main__":
    main(tasks, per_model=False)
