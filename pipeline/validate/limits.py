"""The limits by which the tests of a circuit pass or fail, and those of what is only counted."""

from __future__ import annotations

import math

CHANCE = math.log(2)
"""Task loss in nats of a model that tells the two prompts of a pair nothing apart; softplus is convex, so that no
preference for one answer makes it smaller (§3). A smaller loss proves that the model still tells them apart."""

CHANCE_LOSS = CHANCE - 0.01
"""A loss that is at chance, up to 0.01 nats for rounding (ours): the model without the circuit has to reach it."""

MARGIN = 0.03
"""Nats that a circuit's loss on unseen pairs may be above its target: a fifth of the paper's 0.15 nats (ours)."""

MIN_ACCURACY = 0.95
"""Share of prompts that a circuit decides: about what circuits at the target of 0.15 nats get right alone (ours)."""

MIN_FOUND_AGAIN = 0.5
"""Share of a circuit's edges that another seed's circuit has, in the median: more are found again than not (ours)."""

MAX_DIVERGENCE = CHANCE + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
"""ln 2 − H(3/4) nats: the least Jensen–Shannon divergence of two attention patterns that share half of their weight.
The bound is convex: a mean below it says that on average more than half of the weight is on the same keys (ours)."""

MAX_FVU = 0.5
"""Fraction of the variance unexplained: less of the median node's variance in the model is missed than found (ours)."""

MIN_CORRELATION = 0.5**0.5
"""√½: circuit and model share half of the median node's variance once level and scale are set aside (ours)."""

USELESS_FVU = 1.0
"""A node ablated to its mean over the same prompts has this FVU: a value with more is worse than none. Counted only."""

QUANTILE = 0.9
"""A needed part matters more than a random addition with at least this probability: q* of Shi et al. (2410.13032)."""

EPSILON = 0.1
"""How far from 1/2 the chance that the circuit does better than the model may be (Shi et al.). Reported only."""

SILENT = 1e-2
"""Root mean square of the score without the circuit, as a share of the model's mean margin, up to which nothing is left
that could depend on the circuit (ours)."""

HARMLESS = 0.01
"""Nats that a node may add to the loss when it is binarised: a fifteenth of the paper's target. Counted only."""

MIN_AUC = 0.95
"""AUC from which a node counts as telling two places, or two kinds of prompt, apart: a part of a published mechanism
(ours)."""

MIN_LIFT = 2.0
"""Weight of a head on the token that it looks at, over what each would have if it looked at all of them alike, the
sink's weight aside. Twice, since heads of small models are soft: half of all weight is more than most have (ours)."""

MIN_GAP = 1e-3
"""Logits between the margins of the model and of the empty circuit, below which faithfulness is undefined (ours)."""


def half_way(target: float) -> float:
    """The loss in nats up to which a task counts as done: nearer to the target than to chance (ours)."""
    return (target + CHANCE) / 2
