"""``sparse-circuits import``, ``export`` and ``means``: models and circuits of other projects in, ours out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli_options import CutOutOf, ParamsFile, TokenizerDir, folder_of
from pipeline.artifacts import check_new_file, check_new_folder

if TYPE_CHECKING:
    from pipeline.circuit import Circuit
    from pipeline.workspace import LoadedModel

IMPORT_EXAMPLE = "Example: sparse-circuits import csp_yolo2 --tokenizer tinypython_2k --out models/csp_yolo2"
EXPORT_EXAMPLE = "Example: sparse-circuits export models/sparse_d256 --format hf --out sparse_d256_hf"
MEANS_EXAMPLE = "Example: sparse-circuits means models/csp_yolo2 --data 'src/**/*.py'"
OF_MODELS = ("openai", "safetensors", "hf", "gpt2")
OF_CIRCUITS = {
    "graphml": "circuit.graphml",
    "node-link": "graph.json",
    "attribution": "attribution.json",
    "viz": "viz_data.pt",
}
OF_TOKENS = ("datasets",)
FORMAT_HELP = (
    f"Of a model: {', '.join(OF_MODELS)}; of a circuit: {', '.join(OF_CIRCUITS)}; of packed tokens: datasets. "
    "What each holds: docs/formats.md."
)
DATA_HELP = (
    "Text or tokens: a folder of packed tokens, ids in a .npy or .bin file, a glob of .py, .jsonl or .parquet, a .txt, "
    ".jsonl.gz or .arrow file, a source's kind in params.yaml (installed, idioms), or a dataset's name on the hub."
)


def import_(
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="A model's folder, or a circuit's viz_data.pt.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the checkpoint or the circuit.")],
    tokenizer: TokenizerDir = None,
    model: Annotated[Path | None, typer.Option(metavar="MODEL", help="Of a circuit: the model it is of.")] = None,
) -> None:
    """Read a model or a circuit of another project, such as the released sparse ones, into this one's files."""
    from pipeline.formats import import_model  # takes seconds to import

    if source.suffix == ".pt":
        _import_circuit(source, out, model, tokenizer)
        return
    read = import_model(source, out, tokenizer)
    for note in read.notes:
        print(note, file=sys.stderr)
    if read.tokenizer is None:
        print(f"{source}: has no tokenizer; name its folder wherever the model is used (--tokenizer)", file=sys.stderr)
    print(f"{out}: the checkpoint; sparse-circuits means {out} --data TEXT makes what pruning needs")


def _import_circuit(source: Path, out: Path, model: Path | None, tokenizer: Path | None) -> None:
    from pipeline import load_model
    from pipeline.formats.viz import read_viz, to_circuit_folder

    if model is None:
        raise ValueError(f"{source}: a circuit; name the model that it is of (--model)")
    check_new_folder(out)
    loaded = load_model(model, tokenizer)
    published = read_viz(source, loaded.model, loaded.means, {"model": loaded.name, "task": out.name})
    for note in published.notes:
        print(note, file=sys.stderr)
    print(f"{out}: {to_circuit_folder(published, out)!r}")


def export(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A model's folder, a circuit's, or packed tokens.")],
    form: Annotated[str, typer.Option("--format", metavar="NAME", help=FORMAT_HELP)],
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="New. Default: beside the source.")] = None,
    tokenizer: TokenizerDir = None,
    model: CutOutOf = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Of an attribution graph: the prompt.")] = None,
) -> None:
    """Write a model, a circuit or packed tokens in a format that other tools read."""
    folder = folder_of(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name a model's, a circuit's, or packed tokens")
    kinds = {"circuit.json": tuple(OF_CIRCUITS), "stats.json": OF_TOKENS}
    allowed = next((names for file, names in kinds.items() if (folder / file).is_file()), OF_MODELS)
    if form not in allowed:
        raise ValueError(f"--format {form}: not of {folder}; allowed: {', '.join(allowed)}")
    if form in OF_MODELS:
        print(_export_model(folder, form, out, tokenizer))
    elif form in OF_CIRCUITS:
        print(_export_circuit(folder, form, out, tokenizer, model, prompt))
    else:
        print(_export_tokens(folder, out))


def _export_model(folder: Path, form: str, out: Path | None, tokenizer: Path | None) -> Path:
    from pipeline import load_model  # takes seconds to import
    from pipeline.formats.foreign import Format, export_model

    place = out or folder.with_name(f"{folder.resolve().name}-{form}")
    loaded = load_model(folder, tokenizer)
    export_model(loaded.model, loaded.tokenizer, Format(form), place, loaded.known_means)
    return place


def _export_circuit(
    folder: Path, form: str, out: Path | None, tokenizer: Path | None, model: Path | None, prompt: str | None
) -> Path:
    from pipeline import Circuit, load_model
    from pipeline.formats.graphs import write_graphml, write_node_link
    from pipeline.formats.viz import write_viz
    from pipeline.workspace import model_beside

    circuit, path = Circuit.load(folder), out or folder / OF_CIRCUITS[form]
    if path.exists():
        raise FileExistsError(f"{path}: is there; name another file to write to, or delete it first")
    check_new_file(path)
    if form == "viz":
        write_viz(circuit, path)
        return path
    loaded = load_model(model or model_beside(circuit), tokenizer)
    if form == "attribution":
        _export_attribution(circuit, loaded, path, prompt)
    else:
        {"graphml": write_graphml, "node-link": write_node_link}[form](circuit, path, loaded.model)
    return path


def _export_attribution(circuit: Circuit, loaded: LoadedModel, path: Path, prompt: str | None) -> None:
    from pipeline.formats.attribution_graph import attribution_graph, write_attribution_graph

    if not prompt:
        raise ValueError("an attribution graph is of one prompt; name it (--prompt)")
    texts = [loaded.tokenizer.decode([token]) for token in range(loaded.tokenizer.vocab_size)]
    graph = attribution_graph(circuit, loaded.model, loaded.to_tokens(prompt)[0], texts, path.stem)
    write_attribution_graph(path, graph)


def _export_tokens(folder: Path, out: Path | None) -> Path:
    from pipeline.data.tokenizer import Tokenizer
    from pipeline.formats.rows import write_dataset

    place = out or folder.with_name(f"{folder.resolve().name}-datasets")
    check_new_folder(place)
    write_dataset(folder, place, Tokenizer.load(folder).eot)
    return place


def means(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model's folder.")],
    data: Annotated[str, typer.Option(metavar="DATA", help=DATA_HELP)],
    n_tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="Over how many. Default: pretrain.mean_tokens.")
    ] = None,
    tokenizer: TokenizerDir = None,
    params: ParamsFile = None,
) -> None:
    """Compute the mean of every node over text, which pruning ablates nodes to, and write it beside the model."""
    from pipeline.formats.means import make_means
    from pipeline.formats.stored_means import write_means
    from pipeline.model.device import prepare_cpu
    from pipeline.workspace import LoadedModel, settings_for

    prepare_cpu(1)
    settings = settings_for(model, params)
    loaded = LoadedModel.open(model, settings, tokenizer)
    with Console(stderr=True).status("running the model"):
        found = make_means(loaded.model, loaded.tokenizer, data, settings, n_tokens or settings.pretrain.mean_tokens)
    print(write_means(found, model))
