"""Trial models: settings by likeness, one made for real on a tiny corpus, its line in the page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows import sweep
from pipeline.artifacts import read_json
from pipeline.config import ConfigError
from pipeline.report.training import filled

ROOT = Path(__file__).parents[2]
PAGE = "before\n<!-- trials: python -m flows.sweep -->\nold\n<!-- /trials -->\nafter\n"


def test_a_trial_takes_over_what_it_is_like():
    trials = {
        "one": {"model": {"d_model": 256, "lr": 0.03}},
        "two": {"like": "one", "model": {"lr": 0.02}},
        "three": {"like": "two", "pretrain": {"batch": 8}},
    }
    assert sweep.settings_of(trials, "three") == {"model": {"d_model": 256, "lr": 0.02}, "pretrain": {"batch": 8}}
    assert sweep.settings_of(trials, "one") == {"model": {"d_model": 256, "lr": 0.03}, "pretrain": {}}


def test_every_trial_is_a_valid_study(params):
    trials = yaml.safe_load(sweep.TRIALS.read_text(encoding="utf-8"))
    for name in trials:
        settings = sweep.settings_of(trials, name)
        changed = sweep.changed(params, name, settings)
        assert list(changed.models) == [name]
        assert changed.pretrain == params.pretrain.model_copy(update=settings["pretrain"])


def test_the_page_s_table_is_made_of_trials_and_of_the_study_s_models():
    settings = {"model": {"d_model": 256, "block_density": 0.125, "embed_density": 1, "lr": 0.03}, "pretrain": {}}
    measured = {"val_loss_nats": 3.0821, "l0": 262720, "tokens": 4999168, "train_seconds": 320.0}
    own = {"models": [measured | {"name": "ours", "d_model": 64, "n_solved": 16}]}
    page = filled(PAGE, {"mine": measured | {"settings": settings, "solved": ["if_equals", "quotes"]}}, own)
    assert "| mine | 256 | 1/8, embedding 1 | 0.03 |  | 5.0 M | 263 k | 3.082 | 2 | 5 |" in page
    assert "| ours | 64 |  |  |  | 5.0 M | 263 k | 3.082 | 16 | 5 |" in page
    assert "old" not in page and page.startswith("before\n") and page.endswith("after\n")
    with pytest.raises(ValueError, match="no block"):
        filled("nothing", {}, own)


def test_the_committed_page_shows_the_committed_trials_and_study():
    """python -m flows.sweep --table writes it anew."""
    page, results = ROOT / sweep.TABLE, ROOT / "results"
    text = page.read_text(encoding="utf-8")
    assert filled(text, read_json(results / "sweep.json"), read_json(results / "summary.json")) == text


def test_an_unknown_trial_is_refused_with_the_known_ones(monkeypatch):
    with pytest.raises(ConfigError, match=r"no trial 'wide'; flows/sweep\.yaml has d256_8"):
        sweep.main(["wide"])
