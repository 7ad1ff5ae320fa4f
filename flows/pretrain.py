"""Stage pretrain: train one model; its curves go to MLflow as they come (§2)."""

from __future__ import annotations

from flows.stage import load_study, main, stage_flow
from flows.torchrun import launch, train
from pipeline.artifacts import read_json
from pipeline.pretrain.distributed import ALONE


@stage_flow
def pretrain(model: str) -> None:
    """Write models/<model> from data/tokens, in as many processes as ``compute.processes`` says."""
    workspace, params = load_study()
    if params.compute.processes > 1:
        launch(workspace, params, model)
    else:
        train(workspace, params, model, ALONE)
    summary = read_json(workspace.model(model) / "summary.json")
    print(
        f"{model}: validation loss {summary['val_loss_nats']:.3f} nats, L0 {summary['l0']:,}, "
        f"{summary['tokens']:,} tokens in {summary['train_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main(pretrain, per_model=True)
