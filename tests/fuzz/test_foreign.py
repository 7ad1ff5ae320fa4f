"""A folder of another project one of whose files was damaged: read, or refused by the reader's own error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import Spoiling, fuzzed, spoilings
from test_files import check

from pipeline.artifacts import ArtifactError
from pipeline.config import ModelConfig, Params
from pipeline.data.batches import CorpusTooSmallError
from pipeline.data.tokenizer import Tokenizer
from pipeline.formats import vocabulary
from pipeline.formats.foreign import Format, export_model, is_foreign, read_foreign
from pipeline.formats.means import token_stream
from pipeline.formats.stored_means import read_means, write_means
from pipeline.model.initial import new_model
from pipeline.model.transformer import Transformer
from pipeline.shape import ModelShape

TEXTS = ["def f(x):\n    return x\n"] * 4
Configs = Callable[..., ModelConfig]


@pytest.fixture(scope="session")
def ours() -> Tokenizer:
    return Tokenizer.train(TEXTS, 260)


@pytest.fixture(scope="session")
def model(tiny_config: Configs, ours: Tokenizer) -> Transformer:
    return new_model(tiny_config(n_layer=1), ours.vocab_size, seed=0, bigram=None)


def tokenizer_fixture(write: Callable[[Tokenizer, Path], None]) -> Callable[..., Path]:
    @pytest.fixture(scope="session")
    def folder(ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
        made = tmp_path_factory.mktemp("foreign")
        write(ours, made)
        return made

    return folder


def write_ranks(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(folder)
    (folder / "tokenizer.json").unlink()


encoder = tokenizer_fixture(vocabulary.write_encoder)
hugging_face = tokenizer_fixture(vocabulary.write_hugging_face)
ranks = tokenizer_fixture(write_ranks)


@pytest.fixture(scope="session")
def exported(model: Transformer, ours: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for transformers, with its own code left out: it is copied, never read."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    export_model(model, ours, Format.HF, folder)
    for path in folder.glob("*.py"):
        path.unlink()
    return folder


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2") / "g"
    shape = ModelShape(n_layer=1, d_model=16, d_head=4, n_ctx=32, norm="layer", positions=True, bigram=False)
    export_model(new_model(shape, 24, seed=0, bigram=None), None, Format.GPT2, folder)
    return folder


@pytest.fixture(scope="session")
def means(model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("means")
    write_means({key: torch.zeros(width) for key, width in model.widths().items()}, folder)
    return folder


@pytest.fixture(scope="session")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    np.save(folder / "ids.npy", np.arange(200, dtype=np.uint16))
    (folder / "ids.bin").write_bytes(np.arange(200, dtype=np.uint16).tobytes())
    return folder


@fuzzed(spoiling=spoilings)
def test_encoders(spoiling: Spoiling, encoder: Path) -> None:
    with spoiling.of(encoder):
        check(lambda: vocabulary.read_tokenizer(encoder), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_tokenizers_of_the_tokenizers_library(spoiling: Spoiling, hugging_face: Path) -> None:
    with spoiling.of(hugging_face):
        check(lambda: vocabulary.read_tokenizer(hugging_face), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_ranks(spoiling: Spoiling, ranks: Path) -> None:
    with spoiling.of(ranks):
        check(lambda: vocabulary.read_tokenizer(ranks), ArtifactError)


@fuzzed(slow=10, spoiling=spoilings)
def test_exported_folders(spoiling: Spoiling, exported: Path) -> None:
    with spoiling.of(exported):
        check(lambda: is_foreign(exported) and read_foreign(exported), ArtifactError)


@fuzzed(slow=4, spoiling=spoilings)
def test_gpt2_folders(spoiling: Spoiling, gpt2: Path) -> None:
    with spoiling.of(gpt2):
        check(lambda: is_foreign(gpt2) and read_foreign(gpt2), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_means_beside_a_model(spoiling: Spoiling, means: Path, model: Transformer) -> None:
    with spoiling.of(means):
        check(lambda: read_means(means, model), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_files_of_ids(spoiling: Spoiling, ids: Path, model: Transformer, ours: Tokenizer, params: Params) -> None:
    with spoiling.of(ids) as path:
        check(lambda: token_stream(model, ours, str(path), params, 32), ArtifactError, CorpusTooSmallError)
