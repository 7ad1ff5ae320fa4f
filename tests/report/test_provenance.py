"""The table of provenance names what it says in words, in groups, each number with its unit."""

from __future__ import annotations

from pipeline.report.provenance import origin

PROVENANCE = {
    "git": {"commit": "69fddd93", "dirty": False},
    "profile": "laptop",
    "params_hash": "094f",
    "machine": {"cpu": "EPYC", "cores": 2, "gpu": None},
    "seconds": {"total": None, "pretrain": {"sparse_d256": 1360.6}, "prune": {"sparse_d256": 588.2}},
}
STATISTICS = {
    "vocab_size": 1024,
    "n_tokens": {"train": 8981286},
    "bytes_per_token": 2.56054,
    "bigram_loss_nats": 3.7708,
}


def test_every_value_stands_under_a_heading_in_words_with_its_unit() -> None:
    assert origin(PROVENANCE, STATISTICS) == {
        "Code": [("commit", "69fddd93"), ("changed since that commit", "no")],
        "Settings": [("profile", "laptop"), ("hash of params.yaml", "094f")],
        "Machine": [("processor", "EPYC"), ("cores", "2"), ("GPU", "–")],
        "Seconds of work": [
            ("from the beginning to the report", "–"),
            ("training, sparse_d256", "1,361 s"),
            ("pruning, sparse_d256", "588 s"),
        ],
        "Corpus": [
            ("vocab size", "1,024"), ("tokens, train", "8,981,286"), ("bytes per token", "2.561"),
            ("bigram loss", "3.771 nats"),
        ],
    }  # fmt: skip


def test_a_folder_without_git_and_a_study_without_seconds_have_their_rows_too() -> None:
    found = origin({"git": None, "seconds": {}}, {})
    assert found == {"Code": [("git", "–")]}
