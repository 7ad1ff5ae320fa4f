"""A folder one of whose files was damaged is read or refused by the reader's own error, and never by another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import Spoiling, fuzzed, spoilings
from safetensors.torch import save_file

from pipeline.artifacts import ArtifactError
from pipeline.circuit import Circuit
from pipeline.config import FilesSource, TasksConfig
from pipeline.data.corpus_table import read_corpus
from pipeline.data.shards import STATS_FILE, TokenStream
from pipeline.data.sources.document import SourceError
from pipeline.data.sources.files import FileFunctions
from pipeline.data.tasks import TaskSet, encode_tasks
from pipeline.data.tokenizer import PATTERN, Tokenizer, TokenizerError
from pipeline.formats.foreign import Format, export_model, read_foreign
from pipeline.formats.viz import read_viz, write_viz
from pipeline.model.checkpoint import load_means, load_model, save_means, save_model
from pipeline.model.transformer import Transformer
from pipeline.pretrain.kept import Kept
from pipeline.prune.tune import open_study

LINE_LENGTH = 4000
FUNCTION = "def f{0}(x):\n    y = x + {0}\n    return y\n"
Models = Callable[..., Transformer]


@pytest.fixture(scope="session")
def model(tiny_model: Models) -> Transformer:
    return tiny_model(n_layer=1)


@pytest.fixture(scope="session")
def means(model: Transformer) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(width) for key, width in model.widths().items()}


@pytest.fixture(scope="session")
def circuit(model: Transformer, means: dict[str, torch.Tensor]) -> Circuit:
    scores = {key: torch.ones(len(mean)) for key, mean in means.items()}
    return Circuit({}, {}, means, scores, about={"task": "t"}).of_names(
        ["0.attn_in.1", "0.attn_in.2", "0.attn_v.3"], ["0.attn_in.1->0.attn_v.3"]
    )


@pytest.fixture(scope="session")
def checkpoint(model: Transformer, means: dict[str, torch.Tensor], tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(model, folder, {"name": "m", "tokenizer": "0"})
    save_means(means, folder)
    return folder


@pytest.fixture(scope="session")
def released(model: Transformer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "r"
    export_model(model, None, Format.SAFETENSORS, folder)
    return folder


@pytest.fixture(scope="session")
def saved_circuit(circuit: Circuit, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("circuit") / "c"
    circuit.save(folder)
    return folder


@pytest.fixture(scope="session")
def viz(circuit: Circuit, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("viz")
    write_viz(circuit, folder / "viz_data.pt")
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train([FUNCTION] * 4, 260).save(folder)
    return folder


@pytest.fixture(scope="session")
def stream(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    (folder / "train.bin").write_bytes(bytes(200))
    stats = {"dtype": "uint16", "n_tokens": {"train": 100, "validation": 0}, "tokenizer_hash": "0"}
    (folder / STATS_FILE).write_text(json.dumps(stats))
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [FUNCTION.format(i) for i in range(8)]
    pq.write_table(pa.table({"text": texts, "split": ["train"] * 8}), folder / "corpus.parquet")
    return folder


@pytest.fixture(scope="session")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "tasks"
    config = TasksConfig(n_train=2, n_validation=2, n_test=2, tail_chars=32)
    encode_tasks(config, 0, Tokenizer({bytes([value]): value for value in range(256)}, PATTERN), folder)
    return folder


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "a.py").write_text(FUNCTION.format(1), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"content": FUNCTION.format(i)}) + "\n" for i in range(4)))
    pq.write_table(pa.table({"content": [FUNCTION.format(i) for i in range(4)]}), folder / "c.parquet")
    return folder


@pytest.fixture(scope="session")
def search(tmp_path_factory) -> Path:
    """The folder of a search with one trial that is complete."""
    folder = tmp_path_factory.mktemp("search")
    study = open_study(folder)
    trial = study.ask()
    trial.set_user_attr("n_edges", 3)
    study.tell(trial, 3.0)
    save_file({"scores": torch.zeros(4)}, folder / "scores-0.safetensors")
    return folder


@pytest.fixture(scope="session")
def training(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    Kept(folder / "checkpoint.pt").write({"model": {"w": torch.zeros(40)}, "step": 3, "history": [{"loss": 1.0}]})
    return folder


def check(action: Callable[[], object], *refusals: type[Exception]) -> None:
    """The action ends well or by one of its refusals, in lines of bounded length."""
    try:
        action()
    except refusals as error:
        assert all(len(line) <= LINE_LENGTH for line in str(error).splitlines())


@fuzzed(slow=4, spoiling=spoilings)
def test_checkpoints(spoiling: Spoiling, checkpoint: Path) -> None:
    with spoiling.of(checkpoint):
        check(lambda: load_model(checkpoint), ArtifactError)
        check(lambda: load_means(checkpoint), ArtifactError)


@fuzzed(slow=4, spoiling=spoilings)
def test_released_folders(spoiling: Spoiling, released: Path) -> None:
    with spoiling.of(released):
        check(lambda: read_foreign(released), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_circuits(spoiling: Spoiling, saved_circuit: Path) -> None:
    with spoiling.of(saved_circuit):
        check(lambda: Circuit.load(saved_circuit), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_published_circuits(spoiling: Spoiling, viz: Path, model: Transformer, means: dict[str, torch.Tensor]) -> None:
    with spoiling.of(viz) as path:
        check(lambda: read_viz(path, model, means), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_tokenizers(spoiling: Spoiling, tokenizer: Path) -> None:
    with spoiling.of(tokenizer):
        check(lambda: Tokenizer.load(tokenizer).encode("def f(x)"), ArtifactError, TokenizerError)


@fuzzed(spoiling=spoilings)
def test_token_streams(spoiling: Spoiling, stream: Path) -> None:
    with spoiling.of(stream):
        check(lambda: TokenStream.open(stream, "train"), ArtifactError)


@fuzzed(spoiling=spoilings)
def test_corpora(spoiling: Spoiling, corpus: Path) -> None:
    with spoiling.of(corpus) as path:
        check(lambda: list(read_corpus(path, "text", "split")), ArtifactError)


@fuzzed(slow=10, spoiling=spoilings)
def test_tasks(spoiling: Spoiling, tasks: Path) -> None:
    with spoiling.of(tasks):
        check(lambda: TaskSet.load(tasks), ArtifactError)


@fuzzed(slow=2, spoiling=spoilings)
def test_source_files(spoiling: Spoiling, sources: Path) -> None:
    settings = FilesSource(
        kind="files", weight=1.0, min_lines=2, max_lines=60, globs=["*.py", "*.jsonl", "*.parquet"], column="content"
    )
    with spoiling.of(sources):
        check(lambda: list(FileFunctions(settings, sources, seed=0).documents(set())), SourceError)


@fuzzed(slow=2, spoiling=spoilings)
def test_search_journals(spoiling: Spoiling, search: Path) -> None:
    """Whatever a crash left, or somebody damaged, a search goes on or begins again: it is never refused."""
    kept = {path: path.read_bytes() for path in search.iterdir()}
    with spoiling.of(search):
        open_study(search).get_trials()
    for path, content in kept.items():
        path.write_bytes(content)


@fuzzed(slow=2, spoiling=spoilings)
def test_resumable_checkpoints(spoiling: Spoiling, training: Path) -> None:
    with spoiling.of(training) as path:
        Kept(path).last_whole(torch.device("cpu"))
