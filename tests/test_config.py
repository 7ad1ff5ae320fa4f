"""params.yaml is checked to the last key, and refused in words that help."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import yaml

from flows.validate import check_controls
from pipeline.config import ConfigError, load_params, parse_params
from pipeline.refusal import read_yaml


@pytest.fixture
def raw() -> dict[str, Any]:
    with open("params.yaml", encoding="utf-8") as file:
        return yaml.safe_load(file)


def refused(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_params(raw, "params.yaml")
    return str(caught.value)


def changed(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(raw)
    *parents, last = path.split(".")
    here = raw
    for part in parents:
        here = here[part]
    here[last] = value
    return raw


def test_the_committed_profile_is_valid_and_varies_width_and_l0(params):
    kinds = [model.kind for model in params.models.values()]
    assert kinds.count("dense") >= 2 and kinds.count("sparse") >= 4


def test_an_unknown_key_is_named_by_its_full_path_with_the_nearest_valid_one(raw):
    name = next(iter(raw["models"]))
    message = refused(changed(raw, f"models.{name}.d_modl", 64))
    assert message == f"params.yaml: unknown key models.{name}.d_modl; did you mean models.{name}.d_model?"


def test_a_missing_key_is_named(raw):
    del raw["prune"]["target_loss"]
    assert refused(raw) == "params.yaml: missing key prune.target_loss"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("seed", -1, "seed"),
        ("tokenise.vocab_size", 100, "tokenise.vocab_size: Input should be greater than or equal to 257 (got 100)"),
        ("prune.target_loss", 0, "prune.target_loss"),
        ("compute.device", "tpu", "'cuda', 'mps' or 'cpu' (got 'tpu')"),
        ("pretrain.anneal_start", 0.9, "anneal_start 0.9 is after anneal_end"),
        ("pretrain.anneal_end", 0.005, "anneal_start 0.01 is after anneal_end 0.005"),
        ("pretrain.beta1", 1, "pretrain.beta1: Input should be less than 1 (got 1)"),
        ("pretrain.eps", float("nan"), "pretrain.eps: Input should be a finite number"),
        ("prune.target_loss", float("inf"), "prune.target_loss: Input should be a finite number"),
        ("models.sparse_d256.lr", float("inf"), "models.sparse_d256.lr: Input should be a finite number"),
        ("ablate.n_random", 0, "ablate.n_random"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(raw, path, value, words):
    assert words in refused(changed(raw, path, value))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("d_head", 24, "is not a multiple of d_head 24"),
        ("afrac", 1e-4, "keeps no entry"),
        ("block_density", 1e-3, "below pretrain.keep_alive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(raw, key, value, words):
    name = next(name for name, model in raw["models"].items() if model["block_density"] < 1)
    assert words in refused(changed(raw, f"models.{name}.{key}", value))


@pytest.mark.parametrize("name", ["v1.5", "a b", "a@b", "../x", "/x", "", "-x", "a/b", "é", "x" * 65, "a\n"])
def test_a_model_has_a_name_that_is_a_folders_a_shells_and_dvcs(raw, name):
    raw["models"][name] = next(iter(raw["models"].values()))
    assert "names no model; allowed: letters a to z, digits, _ and -" in refused(raw)


@pytest.mark.parametrize(
    "text", ["seed: 1\nseed: 2\n", "a: {b: 1, b: 2}\n", "[" * 100_000, "a: [", b"\xff".decode("latin1")]
)
def test_a_file_that_is_no_yaml_or_gives_a_key_twice_is_named(tmp_path, text):
    (tmp_path / "params.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match=r"params\.yaml: not valid YAML") as caught:
        load_params(tmp_path / "params.yaml")
    assert ("twice" in str(caught.value)) == text.endswith(("2\n", "2}\n"))


def test_source_weights_add_up_and_idioms_are_at_most_half(raw):
    uneven = changed(raw, "corpus.sources", [{"kind": "idioms", "weight": 0.5}])
    assert "add up to 0.5" in refused(uneven)
    too_many = changed(raw, "corpus.sources", [{"kind": "idioms", "weight": 0.6}])
    assert "less than or equal to 0.5" in refused(too_many)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(ConfigError, match="run from the project's folder"):
        load_params(tmp_path / "params.yaml")


def test_an_unknown_model_is_refused_with_the_known_ones(params):
    with pytest.raises(ConfigError, match=", ".join(params.models)):
        params.model("sparse_d999")


def test_controls_of_a_model_that_is_not_there_are_refused_in_one_line(raw):
    message = refused(changed(raw, "validate.control_models", ["sparse_d999"]))
    allowed = f"allowed: names in models, {next(iter(raw['models']))}"
    assert f"validate.control_models: unknown model 'sparse_d999'; {allowed}" in message
    assert "\n" not in message


def test_controls_of_a_task_that_is_none_are_refused_with_the_nearest(params):
    check_controls(params.validate)
    wrong = params.validate.model_copy(update={"control_tasks": ["if_equals", "bracket_brase"]})
    with pytest.raises(ConfigError, match=r"validate\.control_tasks: unknown task 'bracket_brase'; did you mean 'br"):
        check_controls(wrong)


def test_a_deciding_circuit_is_searched_for_at_each_of_its_targets_in_turn(raw):
    raw = changed(raw, "prune.deciding.target_losses", [0.05, 0.2])
    prune = parse_params(changed(raw, "prune.deciding.curve_losses", [0.2, 0.05, 0.5]), "params.yaml").prune
    found = prune.for_deciding()
    assert [(one.target_loss, one.curve_losses) for one in found] == [(0.05, [0.2, 0.05, 0.5]), (0.2, [0.2, 0.5])]
    assert all(one.most_scale == 1 and one.for_deciding() == [] for one in found)


def test_a_message_is_of_bounded_length_whatever_it_quotes(raw):
    raw["corpus"]["sources"][0]["kind"] = "9" * 5000
    [line] = refused(raw).splitlines()
    assert line.startswith("params.yaml: corpus.sources.0: Input tag '999") and len(line) < 1100


@pytest.mark.parametrize("merged", ["{{<<: [{0}]}}", "[{0}]"])
def test_settings_that_multiply_by_aliases_are_refused_soon(tmp_path, merged):
    names = ["*a0"] + [f"*a{i}" for i in range(1, 30)]
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {merged.format(', '.join([names[i - 1]] * 10))}" for i in range(1, 30)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError, match="unknown key a29"):
        load_params(path)
    assert time.process_time() - began < 10


def test_merges_keep_what_the_mapping_itself_says(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: [*a, {z: 3}], x: 4}\n", encoding="utf-8")
    assert read_yaml(path)["b"] == {"x": 4, "y": 2, "z": 3}


@pytest.mark.parametrize("text", ["a: {[1, 2]: 3}", "a: {<<: {[1, 2]: 3}}", "a: {{b: c}: 3}"])
def test_a_key_that_is_no_word_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_params(path)
