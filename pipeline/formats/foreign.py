"""Models in folders of other projects: which format a folder has, the model in it, and ours written in theirs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artifacts import check_new_folder, file_hash, whole_folder, write_json
from pipeline.data.tokenizer import Tokenizer
from pipeline.formats import gpt2, released, vocabulary
from pipeline.formats.errors import FormatError, read_json
from pipeline.formats.stored_means import read_means
from pipeline.formats.tensors import fitted, read_weights, write_shards
from pipeline.model.checkpoint import save_means, save_model
from pipeline.model.transformer import Transformer
from pipeline.shape import ModelShape

HUB_FILE = "config.json"
HUB_KEY = "released"  # of a Hugging Face config that we wrote: the released config
HUB_CODE = Path(__file__).with_name("modeling_sparse_circuits.py")
# Keys of any Hugging Face config.
HUB_KEYS = frozenset(
    "architectures auto_map model_type torch_dtype dtype transformers_version use_cache bos_token_id eos_token_id "
    "pad_token_id tie_word_embeddings is_decoder _name_or_path return_dict output_attentions output_hidden_states "
    "max_position_embeddings hidden_size num_attention_heads num_hidden_layers".split()
)
ALLOWED = "allowed: a released sparse model (beeg_config.json), GPT-2, one that was exported from here"


class Format(StrEnum):
    """What a model can be written as."""

    OPENAI = "openai"  # beeg_config.json, final_model.pt, encoder.json, vocab.bpe
    SAFETENSORS = "safetensors"  # the same with model.safetensors and tokenizer.json
    HF = "hf"  # a folder for AutoModelForCausalLM.from_pretrained(…, trust_remote_code=True)
    GPT2 = "gpt2"  # a folder for GPT2LMHeadModel.from_pretrained; of dense models that fit it


@dataclass(frozen=True)
class Foreign:
    """A model out of a foreign folder, frozen; its tokenizer where it has one; notes on what was left out."""

    model: Transformer
    tokenizer: Tokenizer | None
    notes: tuple[str, ...]


def is_foreign(folder: Path | str) -> bool:
    """Whether a folder has a model in a format of another project, or none that anybody knows; not ours."""
    folder = Path(folder)
    if (folder / HUB_FILE).is_file():
        described = read_json(folder / HUB_FILE)
        if isinstance(described, dict) and {"format", "model"} <= described.keys():
            return False
        return (folder / released.CONFIG_FILE).is_file() or isinstance(described, dict) and "model_type" in described
    return (folder / released.CONFIG_FILE).is_file()


def read_foreign(folder: Path | str, tokenizer: Path | str | None = None) -> Foreign:
    """The model in a folder of another project, its ``checkpoint`` set to a hash of its files.

    ``tokenizer``: where that is (None: the folder, where it has one). Raises FormatError for a folder of another
    family, options that our forward pass lacks, and tensors that are missing, extra, of a wrong shape or NaN.
    """
    folder, tokenizer = Path(folder), None if tokenizer is None else Path(tokenizer)
    if not folder.is_dir():
        raise FormatError(f"{folder}: no such folder; {ALLOWED}")
    model, notes = (_read_gpt2 if _is_gpt2(folder) else _read_released)(folder)
    read = vocabulary.find_tokenizer(folder) if tokenizer is None else vocabulary.read_tokenizer(tokenizer)
    _check_size(read, model, folder)
    return Foreign(model.freeze(), read, tuple(notes))


def _is_gpt2(folder: Path) -> bool:
    path = folder / HUB_FILE
    described = read_json(path) if path.is_file() and not (folder / released.CONFIG_FILE).is_file() else None
    return isinstance(described, dict) and described.get("model_type") == "gpt2"


def _read_gpt2(folder: Path) -> tuple[Transformer, list[str]]:
    path = folder / HUB_FILE
    shape, vocab_size, tied = gpt2.read_shape(path)
    found, files = read_weights(folder, gpt2.WEIGHTS)
    if shape.n_layer > len(found):
        raise FormatError(f"{path}: n_layer {shape.n_layer}, but the folder has {len(found)} tensors; allowed: fewer")
    model = _with_weights(shape, vocab_size, gpt2.parameters_of(found, shape, vocab_size, tied, folder))
    model.checkpoint = file_hash(path, *files)
    return model, []


def _read_released(folder: Path) -> tuple[Transformer, list[str]]:
    path, config, notes = _config_of(folder)
    found, files = read_weights(folder, released.WEIGHTS)
    masks = released.buffers(found)
    found = {name: tensor for name, tensor in found.items() if name not in masks}
    if config.n_layer > len(found):  # before as many shapes are listed
        raise FormatError(
            f"{path}: n_layer {config.n_layer}, but the folder has {len(found)} tensors; allowed: as many"
        )
    tensors = fitted(found, released.shapes_of(config), folder, released.optional_in(config))
    shape = released.shape_of(config, tensors, path)
    model = _with_weights(shape, config.vocab_size, released.parameters_of(config, tensors, shape))
    model.checkpoint = file_hash(path, *files)
    return model, notes


def _config_of(folder: Path) -> tuple[Path, released.ReleasedConfig, list[str]]:
    """The config of a folder, the file that it is in, and notes. Raises FormatError for other families."""
    path = folder / released.CONFIG_FILE
    if path.is_file():
        return path, *released.read_config(path)
    path = folder / HUB_FILE
    if not path.is_file():
        raise FormatError(f"{folder}: has neither {released.CONFIG_FILE} nor {HUB_FILE}; {ALLOWED}")
    described = read_json(path)
    if not isinstance(described, dict) or not {HUB_KEY, "block_size"} & described.keys():
        family = described.get("model_type") if isinstance(described, dict) else None
        raise FormatError(f"{path}: a model of another family ({family}); {ALLOWED}")
    return path, *released.read_config(path, HUB_KEYS, section=HUB_KEY)


def _with_weights(shape: ModelShape, vocab_size: int, parameters: dict[str, Tensor]) -> Transformer:
    """The model with these very tensors; no others are ever made."""
    with torch.device("meta"):
        model = Transformer(shape, vocab_size)
    model.load_state_dict(parameters, strict=True, assign=True)
    return model


def _check_size(tokenizer: Tokenizer | None, model: Transformer, folder: Path) -> None:
    if tokenizer is not None and tokenizer.vocab_size != model.vocab_size:
        raise FormatError(
            f"{folder}: a tokenizer of {tokenizer.vocab_size} ids, but a model of {model.vocab_size}; name the "
            "tokenizer that it was trained with (--tokenizer)"
        )


def import_model(folder: Path | str, out: Path | str, tokenizer: Path | str | None = None) -> Foreign:
    """Write a foreign model as a checkpoint of ours into a new folder, whole or not at all; what was read.

    Means of its nodes come along where they lie beside it; else ``sparse-circuits means`` makes them. Raises
    FileExistsError, FormatError.
    """
    folder, out = Path(folder), check_new_folder(Path(out))
    if folder.is_dir() and not is_foreign(folder) and (folder / HUB_FILE).is_file():
        raise FormatError(f"{folder}: is one of ours already; copy the folder")
    read = read_foreign(folder, tokenizer)
    means = read_means(folder, read.model)
    extra = {"name": out.name, "imported_from": read.model.checkpoint, "notes": list(read.notes)}
    with whole_folder(out) as partial:
        if read.tokenizer is not None:
            read.tokenizer.save(partial)
            extra["tokenizer"] = read.tokenizer.hash
        if means is not None:
            save_means(means, partial)
        save_model(read.model, partial, extra)
    return read


def export_model(
    model: Transformer,
    tokenizer: Tokenizer | None,
    form: Format,
    out: Path | str,
    means: dict[str, Tensor] | None = None,
) -> None:
    """Write one of our models in a format of others into a new folder, whole or not at all: the same logits, bit for
    bit, when it is read back in float32. ``means``: written beside it as means.safetensors. Raises FileExistsError."""
    with whole_folder(check_new_folder(Path(out))) as partial:
        if form is Format.GPT2:
            _write_gpt2(model, tokenizer, partial)
        elif form is Format.HF:
            _write_hub(released.config_of(model), released.tensors_of(model), tokenizer, partial)
        else:
            config = released.config_of(model, f"sparse-circuits-{tokenizer.hash}" if tokenizer else "")
            write_json(partial / released.CONFIG_FILE, released.as_json(config))
            _write_plain(form, released.tensors_of(model), tokenizer, partial)
        if means:
            save_means({key: mean.cpu() for key, mean in means.items()}, partial)


def _write_gpt2(model: Transformer, tokenizer: Tokenizer | None, folder: Path) -> None:
    config = gpt2.config_of(model)
    if tokenizer is not None:
        vocabulary.write_hugging_face(tokenizer, folder)
        config |= {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    write_json(folder / HUB_FILE, config)
    write_shards(gpt2.tensors_of(model, config["tie_word_embeddings"]), folder)


def _write_plain(form: Format, tensors: dict[str, Tensor], tokenizer: Tokenizer | None, folder: Path) -> None:
    if form is Format.OPENAI:
        torch.save(tensors, folder / "final_model.pt")
        if tokenizer is not None:
            vocabulary.write_encoder(tokenizer, folder)
    else:
        write_shards(tensors, folder)
        if tokenizer is not None:
            vocabulary.write_hugging_face(tokenizer, folder)


def _write_hub(
    config: released.ReleasedConfig, tensors: dict[str, Tensor], tokenizer: Tokenizer | None, folder: Path
) -> None:
    """A folder that transformers loads with the code in it, which needs torch and transformers only."""
    module = HUB_CODE.stem
    described = {
        "model_type": "sparse_circuits",
        "architectures": ["SparseCircuitsForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.SparseCircuitsConfig",
            "AutoModelForCausalLM": f"{module}.SparseCircuitsForCausalLM",
        },
        "dtype": "float32",
        "tie_word_embeddings": False,
        HUB_KEY: released.as_json(config),
    }
    if tokenizer is not None:
        vocabulary.write_hugging_face(tokenizer, folder)
        described |= {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    write_json(folder / HUB_FILE, described)
    shutil.copyfile(HUB_CODE, folder / HUB_CODE.name)
    write_shards(tensors, folder)
