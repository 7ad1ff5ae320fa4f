"""Stage example: a model and its circuits in few bytes, which the repository ships for a first look."""

from __future__ import annotations

from flows.stage import load_study, main, stage_flow
from pipeline.example import write_example


@stage_flow
def example() -> None:
    """Write example/ from data/tokens, and the model and the circuits that ``report.example_model`` names."""
    workspace, params = load_study()
    n_bytes, losses = write_example(workspace, params)
    most = max(map(abs, losses.values()), default=0)
    print(
        f"example: {params.report.example_model} and {len(losses)} circuits in {n_bytes / 1e6:.1f} MB; "
        f"rounding the weights moves a circuit's validation loss by at most {most:.4f} nats"
    )


if __name__ == "__main__":
    main(example, per_model=False)
