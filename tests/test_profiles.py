"""Every profile, merged over params.yaml, is a valid study; the tiny one is tiny, the paper's has the paper's sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.environment import guarded
from flows.profiles import main, merged, profile_names
from pipeline.config import ConfigError, load_params, parse_params

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """A folder with this project's params.yaml and a profile of its own."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return lambda text: (tmp_path / "profiles" / "mine.yaml").write_text(text, encoding="utf-8") and tmp_path


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_each_profile_over_params_yaml_is_valid_and_says_its_name(name):
    assert parse_params(merged(ROOT, name)).profile == name


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_each_profile_has_sparse_and_dense_models_its_own_or_the_study_s(name, params):
    models = parse_params(merged(ROOT, name)).models
    assert {model.kind for model in models.values()} == {"sparse", "dense"}
    listed = yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert list(models) == list(listed.get("models", params.models))


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_no_profile_changes_the_question(name, params):
    study = parse_params(merged(ROOT, name))
    assert study.prune.target_loss == params.prune.target_loss and study.seed == params.seed
    assert study.ablate.n_random >= 20
    assert sum(source.weight for source in study.corpus.sources if source.kind != "idioms") >= 0.5


def test_the_papers_profile_holds_l0_while_width_grows():
    models = parse_params(merged(ROOT, "paper")).models
    wide, half = models["sparse_d2048"], models["sparse_d1024"]
    assert (wide.n_layer, wide.d_model, wide.n_head, wide.n_ctx) == (8, 2048, 128, 256)
    assert wide.block_density * wide.d_model**2 == half.block_density * half.d_model**2
    assert wide.embed_density * wide.d_model == half.embed_density * half.d_model


def test_a_profile_changes_what_it_names_and_nothing_else(project, params):
    root = project("profile: mine\nprune: {steps: 7}\n")
    found = parse_params(merged(root, "mine"))
    assert found.prune == params.prune.model_copy(update={"steps": 7})
    assert found.models == params.models and found.corpus == params.corpus


def test_a_profiles_models_replace_all_others(project, params):
    first = next(iter(params.models.values())).model_dump_json()
    root = project(f"models: {{only: {first}}}\nvalidate: {{control_models: [only]}}\n")
    assert list(parse_params(merged(root, "mine")).models) == ["only"]


def test_a_wrong_key_of_a_profile_is_named_with_the_profile(project):
    with pytest.raises(ConfigError, match=r"profiles/mine\.yaml: unknown key prune\.stepps; did you mean prune\.steps"):
        merged(project("prune: {stepps: 7}\n"), "mine")


def test_an_unknown_profile_is_refused_with_the_known_ones(project):
    with pytest.raises(ConfigError, match="unknown profile 'papr'; profiles/ has mine"):
        merged(project("profile: mine\n"), "papr")


def test_the_command_takes_a_profile_over_into_params_yaml(project, monkeypatch, capsys):
    root = project("profile: mine\nprune: {steps: 7}\n")
    (root / "dvc.yaml").touch()
    monkeypatch.chdir(root)
    assert main(["mine"]) == 0
    assert load_params(root / "params.yaml").prune.steps == 7
    assert guarded(lambda: main(["papr"])) == 1
    assert capsys.readouterr().err.startswith("error: unknown profile 'papr'")


@pytest.mark.parametrize("name", ["", *profile_names(ROOT)])
def test_no_measurement_decides_over_the_bits_of_a_study(name, params):
    study = parse_params(merged(ROOT, name)) if name else params
    assert study.compute.sparse_below != "auto"
