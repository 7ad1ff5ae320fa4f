"""``sparse-circuits import``, ``export`` and ``means``: models of other projects in, ours out. No stage, no server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli_options import ParamsFile, TokenizerDir

IMPORT_EXAMPLE = "Example: sparse-circuits import csp_yolo2 --tokenizer tinypython_2k --out models/csp_yolo2"
EXPORT_EXAMPLE = "Example: sparse-circuits export models/sparse_d256 --format hf --out sparse_d256_hf"
MEANS_EXAMPLE = "Example: sparse-circuits means models/csp_yolo2 --data 'src/**/*.py'"
FORMATS = ("openai", "safetensors", "hf")
DATA_HELP = (
    "Text or tokens: a folder of packed tokens, ids in a .npy or .bin file, a glob of .py, .jsonl, .parquet or .txt, "
    "a source's kind in params.yaml (installed, idioms), or a dataset's name on the hub."
)


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the other project's model.")],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="A new folder for the checkpoint.")],
    tokenizer: TokenizerDir = None,
) -> None:
    """Read a model of another project into a checkpoint of this one: the released sparse models (docs/formats.md)."""
    from pipeline.formats import import_model  # takes seconds to import

    read = import_model(folder, out, tokenizer)
    for note in read.notes:
        print(note, file=sys.stderr)
    if read.tokenizer is None:
        print(f"{folder}: has no tokenizer; name its folder wherever the model is used (--tokenizer)", file=sys.stderr)
    print(f"{out}: the checkpoint; sparse-circuits means {out} --data TEXT makes what pruning needs")


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The checkpoint's folder, models/<name>.")],
    form: Annotated[str, typer.Option("--format", metavar="|".join(FORMATS), help="What to write; docs/formats.md.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder. Default: MODEL-FORMAT.")] = None,
    tokenizer: TokenizerDir = None,
) -> None:
    """Write a model in a format that others read, with its tokenizer."""
    from pipeline import load_model  # takes seconds to import
    from pipeline.formats.foreign import Format, export_model

    if form not in FORMATS:
        raise ValueError(f"--format {form}: unknown; allowed: {', '.join(FORMATS)}")
    loaded, place = load_model(model, tokenizer), out or model.with_name(f"{model.resolve().name}-{form}")
    export_model(loaded.model, loaded.tokenizer, Format(form), place, loaded.known_means)
    print(place)


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
    from pipeline.formats.means import make_means, write_means
    from pipeline.model.device import prepare_cpu
    from pipeline.workspace import LoadedModel, settings_for

    prepare_cpu(1)
    settings = settings_for(model, params)
    loaded = LoadedModel.open(model, settings, tokenizer)
    with Console(stderr=True).status("running the model"):
        found = make_means(loaded.model, loaded.tokenizer, data, settings, n_tokens or settings.pretrain.mean_tokens)
    print(write_means(found, model))
