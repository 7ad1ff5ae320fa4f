"""The released format: read exactly, written and read back to the same bits, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import load_model
from pipeline.formats import FormatError, import_model, read_foreign
from pipeline.formats.foreign import Format, export_model
from pipeline.formats.released import ReleasedConfig, shapes_of
from pipeline.model import checkpoint
from tests.formats.conftest import CONFIG, random_tensors
from tests.formats.reference import reference

TOKENS = torch.randint(280, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"afrac": None},
        {"sink": False, "enable_bigram_table": False},
        {"bias": False},
        {"tied_unembed": True},
        {"afrac": 1.0, "afrac_loctypes": "attn_in"},
        {"learnable_bigram_table": True, "d_head": None, "d_mlp": None},
    ],
)
def test_logits_equal_the_reference(released, changes):
    folder = released(**changes)
    found = read_foreign(folder).model
    expected = reference(CONFIG | changes, torch.load(folder / "final_model.pt"), TOKENS)
    assert (found(TOKENS) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("form", [Format.OPENAI, Format.SAFETENSORS, Format.HF])
@pytest.mark.parametrize("changes", [{}, {"sink": True, "positions": True, "afrac": 0.25}, {"bigram": False}])
def test_a_model_written_and_read_back_has_the_same_bits(small_model, tokenizer, tmp_path, form, changes):
    model = small_model(**changes)
    export_model(model, tokenizer, form, tmp_path / "out")
    back = read_foreign(tmp_path / "out")
    assert back.model.config == model.config
    assert back.model(TOKENS).equal(model(TOKENS))
    assert all(p.equal(q) for p, q in zip(model.parameters(), back.model.parameters(), strict=True))
    assert back.tokenizer is not None and back.tokenizer.ranks == tokenizer.ranks


def test_the_tensors_asked_for_are_those_of_the_format():
    for changes in ({}, {"rms_norm": False}, {"d_pos_emb": 4}, {"bias": False}, {"n_head": 2, "d_head": 3}):
        config = CONFIG | changes
        shapes = {name: tuple(tensor.shape) for name, tensor in random_tensors(config).items()}
        assert shapes_of(ReleasedConfig.model_validate(config)) == shapes


def test_an_imported_model_is_a_checkpoint_with_the_same_logits(released, tokenizer, tmp_path):
    folder, place = released(), tmp_path / "words"
    place.mkdir()
    tokenizer.save(place)
    import_model(folder, tmp_path / "models/tiny", place)
    loaded = load_model(tmp_path / "models/tiny")
    assert loaded.name == "tiny" and loaded.tokenizer.hash == tokenizer.hash
    assert loaded.model(TOKENS).equal(read_foreign(folder).model(TOKENS))
    assert load_model(folder, place).model(TOKENS).equal(loaded.model(TOKENS))
    assert checkpoint.load_model(tmp_path / "models/tiny").checkpoint == loaded.model.checkpoint
    tied = released("tied", tied_unembed=True)
    import_model(tied, tmp_path / "models/tied", place)
    assert load_model(tmp_path / "models/tied").model(TOKENS).equal(read_foreign(tied).model(TOKENS))


def test_a_model_without_means_says_how_to_make_them(released, tokenizer, tmp_path):
    tokenizer.save(released())
    loaded = load_model(tmp_path / "released")
    with pytest.raises(checkpoint.ArtifactError, match="sparse-circuits means .* --data"):
        _ = loaded.means


def test_masks_and_half_precision_are_read_and_harmless_keys_noted(released):
    folder = released(grad_checkpointing=False, pfrac=0.01, mup=False, n_embd=16)
    tensors = torch.load(folder / "final_model.pt")
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    torch.save(tensors | {"transformer.h.0.attn.bias": torch.ones(1, 1, 24, 24)}, folder / "final_model.pt")
    read = read_foreign(folder)
    assert [note.split()[3] for note in read.notes] == ["pfrac", "mup", "n_embd"]
    expected = reference(CONFIG, {name: tensor.float() for name, tensor in tensors.items()}, TOKENS)
    assert (read.model(TOKENS) - expected).abs().max() <= 1e-5


def test_the_older_name_of_d_mlp_is_read(released):
    folder = released()
    config = json.loads((folder / "beeg_config.json").read_text())
    config["n_mlp"] = config.pop("d_mlp")
    (folder / "beeg_config.json").write_text(json.dumps(config))
    assert read_foreign(folder).model.config.d_mlp == 64


def refusal(folder: Path) -> str:
    with pytest.raises(FormatError) as caught:
        read_foreign(folder)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"afrac": 0.01}, "afrac 0.01 keeps no entry"),
        ({"block_size": 4}, "n_ctx"),
        ({"afrac_loctypes": "attn_in,everywhere"}, "topk_at"),
    ],
)
def test_sizes_and_sites_that_no_model_can_have_are_refused(released, changes, named):
    assert named in refusal(released(**changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": 1}, "unknown key colour"),
        ({"n_layers": 2}, "did you mean n_layer?"),
        ({"use_tied_aux_matrix": True}, "use_tied_aux_matrix is True"),
        ({"mup_width": 4}, "mup_width is 4"),
        ({"n_embd": 8}, "n_embd 8, but d_model 16"),
        ({"activation_type": "swish"}, "activation_type"),
        ({"n_layer": "2"}, "n_layer"),
    ],
)
def test_keys_that_mean_something_else_are_refused_by_name(released, changes, named):
    folder = released()
    (folder / "beeg_config.json").write_text(json.dumps(CONFIG | changes))
    assert named in refusal(folder)


def test_missing_extra_misshaped_and_nan_tensors_are_refused_by_name(released):
    folder = released()
    tensors = torch.load(folder / "final_model.pt")
    path, name = folder / "final_model.pt", "transformer.h.1.mlp.c_fc.weight"
    for change, said in (
        ({name: None}, f"lacks {name} [64, 16]"),
        ({"extra": torch.zeros(2, 3)}, "has unknown extra [2, 3]"),
        ({name: torch.zeros(16, 64)}, f"has a wrong shape of {name} [16, 64], not [64, 16]"),
        ({name: torch.full((64, 16), torch.nan)}, f"{name} has NaN"),
        ({name: torch.zeros(64, 16, dtype=torch.long)}, f"{name} is of torch.int64"),
    ):
        torch.save({key: value for key, value in (tensors | change).items() if value is not None}, path)
        assert said in refusal(folder)


def test_tied_embeddings_that_differ_are_refused(released):
    folder = released(tied_unembed=True)
    tensors = torch.load(folder / "final_model.pt")
    torch.save(tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1}, folder / "final_model.pt")
    assert "are not one tensor" in refusal(folder)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_file_with_code_in_it_is_refused_and_not_run(released, capsys):
    folder = released()
    torch.save({"transformer.wte.weight": Evil()}, folder / "final_model.pt")
    assert "it was not loaded" in refusal(folder)
    assert "code ran" not in capsys.readouterr().out


def test_half_a_folder_and_another_family_are_refused(released, tmp_path):
    folder = released()
    (folder / "final_model.pt").write_bytes(b"PK\x03\x04 half")
    assert "damaged" in refusal(folder) or "not loaded" in refusal(folder)
    config = folder / "beeg_config.json"
    whole = config.read_text()
    config.write_text(whole[: len(whole) // 2])
    assert "beeg_config.json: damaged, no whole file of JSON" in refusal(folder)
    config.write_text(whole)
    (folder / "final_model.pt").unlink()
    assert "has no weights" in refusal(folder)
    other = tmp_path / "llama"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    assert "a model of another family (llama)" in refusal(other)
    assert "no such folder" in refusal(tmp_path / "none")


def test_a_shard_that_is_missing_is_refused(small_model, tmp_path):
    from pipeline.formats.released import config_of, tensors_of
    from pipeline.formats.tensors import write_shards

    model, folder = small_model(), tmp_path / "sharded"
    folder.mkdir()
    (folder / "beeg_config.json").write_text(config_of(model).model_dump_json())
    write_shards(tensors_of(model), folder, shard_bytes=20_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and read_foreign(folder).model(TOKENS).equal(model(TOKENS))
    save_file({"other": torch.zeros(1)}, shards[1])
    assert "in no shard" in refusal(folder)
    shards[1].unlink()
    assert f"{shards[1].name}: no such file" in refusal(folder)
    assert load_file(shards[0])


def test_a_tokenizer_of_another_size_is_refused(released, tokenizer):
    folder = released(vocab_size=300)
    tokenizer.save(folder)
    assert "a tokenizer of 280 ids, but a model of 300" in refusal(folder)


def test_a_refused_import_leaves_nothing(released, tmp_path):
    with pytest.raises(FormatError):
        import_model(released(block_size=4), tmp_path / "models/x")
    assert not (tmp_path / "models").exists()
    kept = tmp_path / "full"
    kept.mkdir()
    (kept / "file").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        import_model(released(), kept)
