"""Sizes and numbers that bound the search, and are no setting of the study; phases are those of ``pipeline.prune``.

None is the paper's: they were tried on validation pairs, for small circuits in little time.
"""

# Phase 2, search.
ADAM_BETA1 = 0.9  # AdamW's average of gradients keeps this share of itself at each step.
ADAM_EPS = 1e-8  # AdamW adds this to the root of the mean squared gradient.
CLIP_EPS = 1e-6  # Clipping adds this to the gradient's norm, as torch does.
PASS_PAIRS = 16  # A pass on a CPU has this many pairs of one trial: more leave its cache, fewer cost too much per call.
RANK_PAIRS = 64  # Units that end at a clamp of τ are ranked by attribution on this many train pairs.
N_CHECKS = 5  # Hopeless trials are looked for this many times in a search.
N_RANDOM_TRIALS = 8  # Optuna's sampler begins with this many random proposals.
MAX_LEARNABLE_EDGES = 8000  # Phase 4 makes circuits of up to this many edges small.
LOOSER, FAR_RATIO = 5 / 3, 4.0  # A trial failed that takes this many times the edges it takes at so much more loss,
FEW_EDGES = 25  # or than this number of edges, if it takes fewer.
MAX_GENTLER_TRIALS = 2  # Where no centre goes well, this many trials with a smaller k_coef follow.
GENTLER_DIVISOR = 4.0  # Each of these trials divides k_coef by this.
MAX_NODES_RATIO = 3.0  # A trial is given up above this many times the nodes of the smallest circuit found.
# Optuna proposes hyperparameters in these ranges, around the paper's centres (Table 2) and the study's own.
RANGES = {
    "k_coef": (1e-5, 3e-2),
    "init_noise_scale": (1e-3, 1e-1),
    "init_noise_bias": (0.01, 0.5),
    "weight_decay": (1e-4, 1e-1),
    "lr": (1e-3, 1e-1),
    "beta2": (0.8, 0.999),
    "warmup": (0.0, 0.3),
    "heaviside_temp": (0.1, 10.0),
}
LINEAR = {"beta2", "warmup"}  # The other ranges are logarithmic.

# Phase 3, discretise.
START_UNITS = 8  # Bisection tries this many units first: small circuits are cheap to run.
TOLERANCE = 0.02  # Bisection stops within this share of a circuit's units.
GROWTH = 0.05  # A circuit that misses the target on the extra pairs first grows by this share of its units.
GROWTH_TOLERANCE = 0.5  # Bisection of that growth stops within this share of the growth.
Z_99 = 2.33  # A normal variable exceeds its mean by more than this many standard deviations once in a hundred times.

# Phase 4, edges.
MAX_TRIED_EDGES = 1000  # In larger circuits, learning which edges are needed is faster than trying each.
MAX_START_RATIO = 4.0  # Phases 4 and 5 start from at most this many times the edges that the main target takes.
MAX_START_EXTRA = 300  # Phase 5 starts, for speed, from at most this many edges more than the main target takes.
MAX_LEARNED_RATIO = 1.25  # Learned edges are tried, dead ends included, up to this many times a known circuit's.
EDGE_LR = 0.05  # This is the learning rate of masks over edges.
# Weights on the number of edges, in nats an edge, of the first search and of one that continues from its circuit. The
# best one differs from task to task: too large a one removes all edges at once.
EDGE_K_COEFS = ((1e-4, 3e-4, 1e-3), (3e-4, 1e-3))

# Phase 5, removal path.
N_STARTS = 2  # Phases 3 to 5 start from the rankings of this many best trials.
PATH_SHARE = 0.5  # This share of the pairs decides the path.
ATTRIBUTION_PAIRS = 16  # Attributions of items are taken on this many train pairs.
MAX_MINIMISED_EDGES = 4000  # In larger circuits, no item is removed by itself.
MIN_PATH_RISE = 0.01  # The first cost limit assumes that the loss may rise by at least this, in nats.
FIRST_LIMIT = 1 / 8  # The first cost limit is this share of that rise per edge.
LIMIT_FACTOR = 1.5  # Each cost limit is this many times the one before.
MAX_LIMIT_RATIO = 1.3  # An item whose known cost is above this many times the limit is not tried.
FIRST_GROUP = 0.25  # This share of the items is removed together at first.

# Baselines.
BASELINE_PAIRS = 32  # Attributions of baselines are taken on this many train pairs.
INTEGRAL_STEPS = 5  # Integrated attributions are means over this many points between no node and all.

# A refusal recommends a higher target only up to this loss, in nats: above it the model does hardly better than chance.
MAX_ADVISED_LOSS = 0.5
