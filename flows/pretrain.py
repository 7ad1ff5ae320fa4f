"""Stage pretrain: train one model; its curves go to MLflow as they come (METHOD §2)."""

from __future__ import annotations

from flows.stage import load_study, main, stage_flow
from flows.tracking import Tracker
from pipeline.pretrain.loop import pretrain as pretrain_model


@stage_flow()
def pretrain(model: str) -> None:
    """Write models/<model> from data/tokens."""
    workspace, params = load_study()
    with Tracker(params, model) as tracker:
        summary = pretrain_model(
            name=model,
            config=params.model(model),
            shared=params.pretrain,
            compute=params.compute,
            seed=params.seed,
            tokens=workspace.tokens,
            folder=workspace.model(model),
            scratch=workspace.scratch,
            on_log=tracker.log_step,
        )
        tracker.log_model(summary, workspace.model(model))
    print(
        f"{model}: validation loss {summary['val_loss_nats']:.3f} nats, L0 {summary['l0']:,}, "
        f"{summary['tokens']:,} tokens in {summary['train_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main(pretrain, per_model=True)
