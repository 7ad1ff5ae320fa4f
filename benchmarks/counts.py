"""What a step of sparse pretraining does, in FLOPs and bytes, part by part: counts, without any machine's rates.

What is counted is the code as it is written, operation by operation (LAYER), with dense matrix products. Caches are
taken to hold nothing from one operation to the next, and kernels to touch each number once. docs/cost.md explains.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from pipeline.config import ModelConfig, PretrainConfig
from pipeline.model.attention import ALIGNED

FULL = 4  # bytes of a float32
ADAM_BYTES = 48  # a parameter: gradient norm 4, division 8, Adam 28 (four read, three written), decay 8
# Bytes a weight of pipeline.kernels.projection_gpu: magnitudes 8, 31 counts of 6, ties 27, the mask applied 9; then
# keep-alive: copy 8, a read for each weight kept alive, what was taken marked 22.
SEARCH_BYTES, ALIVE_BYTES = 8 + 31 * 6 + 27 + 9, 30
SITES = 11  # width of AbsTopK's sites together, in d_model: in, q, k, v, out, in, four of neurons, out
SINK = 1  # attend_fused gives every head one more key, and one more channel for its weight
SCORE_PASSES = (9, 7)  # forward and backward over the scores, where a kernel does not keep them to itself


@dataclass(frozen=True)
class Job:
    """One model's training, its batch shared out over devices."""

    config: ModelConfig
    shared: PretrainConfig
    vocab: int
    low: int  # bytes of a number in matrix products: 2 (bfloat16 by autocast) or 4 (float32)
    devices: int = 1
    fused_attention: bool = True  # False: the scores [head, query, key] are written out, in float32

    @property
    def tokens(self) -> int:
        """Of one device's step."""
        return self.shared.batch * self.config.n_ctx // self.devices

    @property
    def at_once(self) -> int:
        """Sequences in one forward pass of a device."""
        return self.shared.sequences_at_once(self.devices)

    @property
    def sparse(self) -> int:
        """Parameters that the projection goes through."""
        n = parameters(self.config, self.vocab)
        matrices = n["matrices"] if self.config.block_density < 1 else 0
        return matrices + (n["embeddings"] + n["biases"] if self.config.embed_density < 1 else 0)


@dataclass(frozen=True)
class Work:
    """Arithmetic and traffic of one part of a step, on one device."""

    matmul: float = 0.0  # FLOPs of products in the training precision
    float32: float = 0.0  # FLOPs in float32 outside of them
    bytes: float = 0.0  # read from and written to memory
    link: float = 0.0  # bytes sent to another device

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Passes:
    """How often an operation reads or writes its tensors, as (low, full): in the products' precision and in float32."""

    part: str
    width: int  # of the tensors together, in d_model
    forward: tuple[int, int]
    backward: tuple[int, int]
    only: str = ""  # "sparse": where AbsTopK is on; "cast": where products are in bfloat16
    masks: int = 0  # bytes a number, each way, for a mask


LAYER = [
    Passes("AbsTopK", SITES, (2, 0), (2, 0), "sparse", masks=1),
    Passes("pointwise", 2, (0, 2), (0, 3)),  # the two norms
    Passes("pointwise", 4, (2, 0), (3, 0)),  # GELU
    Passes("pointwise", 2, (1, 2), (0, 3)),  # adding to the residual stream; adding up both branches' gradients
    Passes("pointwise", 3, (0, 0), (2, 0)),  # the gradients of q, k and v into one tensor
    Passes("pointwise", 6, (1, 1), (1, 1), "cast"),  # outputs of norms, q, k, v, attention's output
    Passes("pointwise", 2, (0, 0), (1, 1), "cast"),  # the residual stream's gradient
    Passes("attention", 5, (0, 2), (0, 2)),  # padding q once, k and v twice
    Passes("attention", 4, (0, 1), (0, 2)),  # the kernel: q, k, v, output; backward these and their gradients
    Passes("attention", 1, (0, 2), (0, 2)),  # heads side by side
]


def parameters(config: ModelConfig, vocab: int) -> dict[str, int]:
    """Parameters by kind; ``matrices`` are those of attention and MLP, ``embeddings`` wte and lm_head."""
    layer, d = config.n_layer, config.d_model
    sinks, positions = config.sink * layer * config.n_head, config.positions * config.n_ctx * d
    return {
        "matrices": layer * 12 * d * d,
        "embeddings": 2 * vocab * d,
        "biases": layer * 9 * d,
        "bigram": config.bigram * vocab * vocab,
        "other": (2 * layer + 1) * d + sinks + positions,
    }


def channels(config: ModelConfig) -> int:
    """A head's channels in ``attend_fused``: its own, the sink's, and zeros up to a multiple of ALIGNED."""
    return -(-(config.d_head + SINK) // ALIGNED) * ALIGNED


def flops_per_token(job: Job) -> dict[str, float]:
    """Of products, forward and backward: 6 a weight; attention's scores, both triangles, the sink among the keys.

    A fused kernel computes the scores again in its backward pass: 14 for each query, key and channel instead of 12.
    """
    config = job.config
    scores = (config.n_ctx + SINK) ** 2 * config.n_head * channels(config) * config.n_layer / config.n_ctx
    return {
        "matrices": 6.0 * parameters(config, job.vocab)["matrices"],
        "unembedding": 6.0 * config.d_model * job.vocab,
        "attention": (14 if job.fused_attention else 12) * scores,
    }


def layers(job: Job) -> dict[str, tuple[Work, Work]]:
    """Forward and backward work of all layers, by part."""
    wide = job.tokens * job.config.n_layer * job.config.d_model
    on = {"": True, "sparse": job.config.afrac < 1, "cast": job.low < FULL}
    n, flops = parameters(job.config, job.vocab)["matrices"], flops_per_token(job)["matrices"]
    work = {"matrices": maps(job, flops, wide * 7, wide * 9, n), "AbsTopK": search(job), "attention": scores(job)}
    for passes in (passes for passes in LAYER if on[passes.only]):
        ways = (passes.forward, passes.backward)
        size = [wide * passes.width * (low * job.low + full * FULL + passes.masks) for low, full in ways]
        before = work.get(passes.part, (Work(), Work()))
        work[passes.part] = (before[0] + Work(bytes=size[0]), before[1] + Work(bytes=size[1]))
    return work


def maps(job: Job, flops: float, n_in: float, n_out: float, weights: int) -> tuple[Work, Work]:
    """Linear maps that read ``n_in`` and write ``n_out`` numbers a step.

    Weights pass once for each part of an accumulated batch; with bfloat16 they and their gradients are cast as well.
    """
    cast = (FULL + job.low) if job.low < FULL else 0
    weights *= job.shared.accumulate
    forward = (n_in + n_out) * job.low + weights * (job.low + cast)
    backward = (2 * n_in + 3 * n_out) * job.low + weights * (2 * job.low + cast)  # out: dX, dW and the biases'
    return Work(flops * job.tokens / 3, bytes=forward), Work(flops * job.tokens * 2 / 3, bytes=backward)


def search(job: Job) -> tuple[Work, Work]:
    """AbsTopK's binary search: a comparison and a sum for each bit of every number, at most."""
    if job.config.afrac == 1:
        return Work(), Work()
    numbers = job.tokens * job.config.n_layer * job.config.d_model * SITES
    return Work(float32=2.0 * (8 * job.low - 1) * numbers), Work()


def scores(job: Job) -> tuple[Work, Work]:
    """Attention's products, in float32, and what passes of its scores through memory."""
    flops = flops_per_token(job)["attention"] * job.tokens
    if job.fused_attention:
        return Work(float32=flops * 2 / 7), Work(float32=flops * 5 / 7)
    written = score_bytes(job) * job.config.n_layer * job.shared.accumulate
    return (
        Work(float32=flops / 3, bytes=SCORE_PASSES[0] * written),
        Work(float32=flops * 2 / 3, bytes=SCORE_PASSES[1] * written),
    )


def score_bytes(job: Job) -> int:
    """One layer's float32 scores in one forward pass."""
    return FULL * job.at_once * job.config.n_head * (job.config.n_ctx + SINK) ** 2


def step(job: Job) -> dict[str, Work]:
    """One training step on one device, by part. With checkpointing, the layers' forward work is done twice."""
    again = job.shared.activation_checkpointing
    work = {name: f + b + (f if again else Work()) for name, (f, b) in layers(job).items()}
    n, tokens, parts = parameters(job.config, job.vocab), job.tokens, job.shared.accumulate
    d, total, others = job.config.d_model, sum(n.values()), 1 - 1 / job.devices
    head = maps(job, flops_per_token(job)["unembedding"], tokens * d, tokens * job.vocab, job.vocab * d)
    # over float32 logits: log-softmax 2, its gradient 4; with bfloat16, casts of the logits and of their gradient
    loss = 6 * FULL + (2 * (FULL + job.low) if job.low < FULL else 0)
    work["logits"] = head[0] + head[1] + Work(bytes=loss * tokens * job.vocab)
    # rows read, written, added; backward read and added to a table of zeros
    work["bigram"] = Work(bytes=8 * FULL * tokens * job.vocab + FULL * n["bigram"] * parts)
    work["embed"] = Work(bytes=5 * FULL * tokens * d + FULL * job.vocab * d * parts)
    work["Adam"] = Work(bytes=(ADAM_BYTES + 3 * FULL * (parts - 1)) * total)
    alive = n["matrices"] * (job.config.block_density < 1) * (ALIVE_BYTES + FULL * job.shared.keep_alive)
    project = (SEARCH_BYTES * job.sparse + alive) / job.devices  # each on one device, which sends the weights on
    work["project"] = Work(bytes=project, link=FULL * job.sparse * others)
    work["reduce"] = Work(link=2 * others * FULL * total)
    return work


def validation(job: Job) -> Work:
    """Validation's float32 forward passes, for each training step: on one device, while the others wait."""
    flops = sum(flops_per_token(replace(job, fused_attention=False)).values()) / 3
    return Work(float32=flops * job.shared.validation_tokens / job.shared.validate_every)


def kept_by_layer(job: Job) -> int:
    """Bytes of what one layer keeps for its backward pass."""
    config, low = job.config, job.low
    wide = job.at_once * config.n_ctx * config.d_model
    residual = 2 * FULL * wide  # inputs of the norms
    inputs = (7 + 4) * low * wide  # of the four linear maps and of GELU
    masks = SITES * wide if config.afrac < 1 else 0
    positions = job.at_once * config.n_head * (config.n_ctx + SINK)
    if job.fused_attention:  # q, k, v, the output, the logarithm of each sum
        return residual + inputs + masks + FULL * positions * (4 * channels(config) + 1)
    return residual + inputs + masks + FULL * positions * 3 * channels(config) + score_bytes(job)


def memory(job: Job) -> dict[str, float]:
    """Peak bytes of one device, by part; activations both all kept and checkpointed (each layer's input, one layer)."""
    n, layer, tokens = parameters(job.config, job.vocab), kept_by_layer(job), job.at_once * job.config.n_ctx
    total = sum(n.values())
    return {
        "weights": FULL * total,
        "bfloat16": (n["matrices"] + n["embeddings"] // 2 + n["biases"]) * job.low if job.low < FULL else 0,
        "gradients": FULL * total,
        "moments": 2 * FULL * total,
        "(bigram's)": 4 * FULL * n["bigram"],
        "logits": 3 * FULL * tokens * job.vocab,  # as they are, as log-probabilities, their gradient
        "kept": job.config.n_layer * layer,
        "checkpointed": job.config.n_layer * FULL * tokens * job.config.d_model + layer,
    }


def peak_memory(job: Job) -> float:
    """Bytes at the fullest moment, were all parts there at once: an upper bound."""
    left_out = {"(bigram's)", "kept" if job.shared.activation_checkpointing else "checkpointed"}
    return sum(size for name, size in memory(job).items() if name not in left_out)
