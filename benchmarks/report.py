"""How fast a circuit's drawing pans, and how long its layout takes, in headless Chromium (no GPU).

``python -m benchmarks.report``: circuits of several sizes, cut at random out of an untrained model. *work*: processor
time of all of Chromium's processes a frame while the drawing is moved all the time, rasterised in software, the first
painting included; *frame*: median from one frame to the next by the browser's clock (16.7 ms is the screen's rate, more
on a machine that is busy otherwise); *layout*: processor time of this process for the picture.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from pipeline.circuit import Circuit
from pipeline.config import load_params
from pipeline.model.initial import new_model
from pipeline.model.transformer import Transformer
from pipeline.report.page import scripts, style
from pipeline.report.picture import picture_of
from pipeline.report.templating import script_json
from pipeline.sites import EDGE_KINDS, edge_key, site_key
from tests.browser.chromium import Page, chromium, executable

MODEL = "dense_d64"
VOCAB_SIZE = 1024
SIZES = ((10, 0.16), (17, 0.58), (28, 1.0))  # nodes a site, share of the edges between them
MOVES = 40
PANNED = """
(async () => {
  const drawing = CircuitDrawing.mount(document.getElementById("stage"), PICTURE, {});
  const next = () => new Promise(go => requestAnimationFrame(go));
  const frames = [];
  let before = await next();
  for (let i = 0; i < MOVES; i++) {
    drawing.move(i % 20 < 10 ? 6 : -6, i % 10 < 5 ? 3 : -3); // draws at the next frame
    const now = await next();
    frames.push(now - before);
    before = now;
  }
  return frames.slice(3);
})()
"""


def random_circuit(model: Transformer, n: int, share: float) -> Circuit:
    """``n`` random nodes of every site, and a share of all edges between them."""
    chance = torch.Generator().manual_seed(0)
    widths = model.widths()
    nodes = {key: torch.randperm(width, generator=chance)[:n].sort().values for key, width in widths.items()}
    edges = {}
    for layer in range(model.config.n_layer):
        for kind in EDGE_KINDS:
            pairs = torch.cartesian_prod(nodes[site_key(layer, kind.source)], nodes[site_key(layer, kind.target)])
            edges[edge_key(layer, kind)] = pairs[torch.rand(len(pairs), generator=chance) < share]
    return Circuit(nodes, edges, {key: torch.zeros(width) for key, width in widths.items()}, {})


def page_of(picture: dict[str, Any]) -> str:
    """HTML of the drawing's own scripts, and the picture, not yet drawn."""
    code = "".join(f"<script>{script}</script>" for script in list(scripts())[:-1])  # all but the one that starts
    stage = '<div id="stage" style="width:900px;height:640px"></div>'
    return f"<!doctype html><style>{style()}</style>{stage}{code}<script>const PICTURE={script_json(picture)}</script>"


def measure(page: Page, picture: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Milliseconds a frame while the drawing is panned: processor time (mean), and by the clock (median)."""
    path = folder / f"{len(picture['edges']['source'])}.html"
    path.write_text(page_of(picture), encoding="utf-8")
    page.goto(path)
    before = processor_time(folder)
    frames = page.evaluate(PANNED.replace("MOVES", str(MOVES)))
    work = 1000 * (processor_time(folder) - before) / MOVES
    return work, statistics.median(frames)


def processor_time(folder: Path) -> float:
    """Seconds that the processes of the Chromium with a profile below ``folder`` have used so far."""
    own = [p for p in psutil.process_iter(["cmdline"]) if any(str(folder) in part for part in p.info["cmdline"] or ())]
    family = {child.pid: child for process in own for child in (process, *process.children(recursive=True))}
    times = [process.cpu_times() for process in family.values()]
    return sum(spent.user + spent.system for spent in times)


def main() -> None:
    """Prints the table; needs Chromium."""
    if executable() is None:
        raise SystemExit("there is no chromium on this machine (apt-get install chromium)")
    torch.set_num_threads(1)
    model = new_model(load_params(Path("params.yaml")).models[MODEL], vocab_size=VOCAB_SIZE, seed=0, bigram=None)
    texts = [str(token) for token in range(VOCAB_SIZE)]
    table = Table("nodes", "edges", "layout (s)", "work (ms)", "frame (ms)", title="Panning a circuit, medians")
    with tempfile.TemporaryDirectory() as place, chromium(Path(place) / "profile") as browser:
        page = Page(browser)
        for n, share in SIZES:
            circuit = random_circuit(model, n, share)
            start = time.process_time()
            picture = picture_of(circuit, model, None, texts)
            layout = time.process_time() - start
            work, frame = measure(page, picture, Path(place))
            sizes = f"{circuit.n_nodes:,}", f"{circuit.n_edges:,}"
            table.add_row(*sizes, f"{layout:.2f}", f"{work:.0f}", f"{frame:.0f}")
        page.close()
    Console().print(table)


if __name__ == "__main__":
    main()
