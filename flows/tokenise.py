"""Stage tokenise: the tokenizer, the packed token streams and their bigram statistics, from the corpus."""

from __future__ import annotations

from flows.stage import load_study, main, stage_flow
from pipeline.data.tokenise import tokenise_corpus


@stage_flow
def tokenise() -> None:
    """Write data/tokens from data/corpus."""
    workspace, params = load_study()
    stats = tokenise_corpus(workspace.corpus / "corpus.parquet", params.tokenise, workspace.tokens)
    print(
        f"tokens: {stats['n_tokens']['train']:,} to train on, {stats['n_tokens']['validation']:,} to validate; "
        f"{stats['bytes_per_token']:.2f} bytes each, bigram loss {stats['bigram_loss_nats']:.3f} nats"
    )


if __name__ == "__main__":
    main(tokenise, per_model=False)
