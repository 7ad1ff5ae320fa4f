"""What half layers read of the residual stream, in the compact executors: its norm, positions beside it, AbsTopK."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.kernels.compact_cpu import read_rows
from pipeline.kernels.threads import in_shares
from pipeline.model.norm import NormTerms
from pipeline.model.transformer import Transformer
from pipeline.sites import Site

MIN_ROWS = 64  # of a thread's share: handing fewer over costs more than it gives
TableRows = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]  # of two tables, and these tables
Past = tuple[Tensor, Tensor, Tensor]  # what is added to the rows: a constant, and in some columns a delta


def whole_rows(base: Float[Tensor, "row d_model"]) -> TableRows:
    """A stream that is kept whole: every row is one of its own table, and nothing of the second is added to it."""
    n, width = base.shape
    return np.arange(n), np.zeros(n, np.int64), (base.numpy(), np.zeros((1, width), np.float32))


class StreamReads:
    """How the half layers of a model read the residual stream. On a CPU, in float32."""

    @torch.no_grad()
    def __init__(self, model: Transformer) -> None:
        self.config = model.config
        self.norms: dict[tuple[int, Site], NormTerms] = {}
        self.beside: dict[tuple[int, Site], np.ndarray] = {}  # [pos, d_pos]: positions that are not added, normed
        nothing = np.zeros((self.config.n_ctx, 0), np.float32)
        for layer, block in enumerate(model.transformer["h"]):
            for site, half in ((Site.ATTN_IN, "1"), (Site.MLP_IN, "2")):
                self.norms[layer, site] = NormTerms.of(getattr(block, f"ln_{half}"))
                self.beside[layer, site] = nothing
                if self.config.d_pos:
                    places = getattr(block, f"ln_p{half}")(model.transformer["wpe"].weight)
                    self.beside[layer, site] = places.contiguous().numpy()

    def __call__(
        self, layer: int, site: Site, rows: TableRows, past: Past, position: np.ndarray, wanted: Int[Tensor, " wanted"]
    ) -> Float[Tensor, "row wanted"]:
        """A half layer's reads at the wanted channels, after its norm and AbsTopK; ``position``: of every row."""
        out = torch.empty(len(rows[0]), len(wanted))
        if out.numel():
            added = tuple(part.numpy() for part in past)
            beside = self.beside[layer, site], position
            norm, kept = self.norms[layer, site].arguments, (self.config.k_at(site.value), wanted.numpy())
            inputs = (*rows, added, beside, norm, kept, out.numpy())
            in_shares(lambda a, b: read_rows(a, b, *inputs), len(out), least=MIN_ROWS)
        return out
