"""Search that tunes itself: the eight hyperparameters of Table 2, for every model and task (§4).

Trials start at the study's centres; with a budget, Optuna proposes more (its TPE sampler), several at a time, which run
as one batch of masks. Hopeless ones are stopped early by Optuna's successive halving. The objective is what the paper
reports: edges at the target loss, after discretisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from jaxtyping import Float
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import Hyperparameters, PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.prune.discretise import START, Candidate, Ranking
from pipeline.prune.evaluator import Evaluator
from pipeline.prune.search import Masking, search
from pipeline.rows import TrialRow
from pipeline.seeds import seed_of

optuna.logging.set_verbosity(optuna.logging.WARNING)

LEAST_K_COEF = 1e-5
# Around the paper's centres (Table 2) and the study's own.
SPACE: dict[str, BaseDistribution] = {
    "k_coef": FloatDistribution(LEAST_K_COEF, 3e-2, log=True),
    "init_noise_scale": FloatDistribution(1e-3, 1e-1, log=True),
    "init_noise_bias": FloatDistribution(0.01, 0.5, log=True),
    "weight_decay": FloatDistribution(1e-4, 1e-1, log=True),
    "lr": FloatDistribution(1e-3, 1e-1, log=True),
    "beta2": FloatDistribution(0.8, 0.999),
    "warmup": FloatDistribution(0.0, 0.3),
    "heaviside_temp": FloatDistribution(0.1, 10.0, log=True),
}
NONE_FOUND = 1e9  # the objective of a trial that reaches the target with no number of nodes, up to
MANY_TIMES = 3.0  # times those of the best: circuits of nearly all of a model take long to run
LEARNABLE = 8000  # edges, from which masks over single edges still find a small circuit
GENTLER = 2  # more trials at most, where no centre gives a circuit of that few edges
MILDER = 4.0  # times less weight on the number of nodes, from one of them to the next
CHECKS = 5  # times in a search that hopeless trials are looked for


@dataclass
class Tuner:
    """Trials of one model and task, with the rankings that this process made."""

    masking: Masking
    evaluator: Evaluator
    train: PairBatch
    config: PruneConfig
    seed: int
    storage: Path | None = None  # a folder
    study: optuna.Study = field(init=False)
    rankings: dict[int, Ranking] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept: InMemoryStorage | JournalStorage = InMemoryStorage()
        if self.storage is not None:
            self.storage.mkdir(parents=True, exist_ok=True)
            kept = JournalStorage(JournalFileBackend(str(self.storage / "trials.log")))
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, bootstrap_count=0)
        self.study = optuna.create_study(storage=kept, study_name="prune", load_if_exists=True, pruner=pruner)

    def run(self, on_progress: Callable[[str], None]) -> None:
        """All trials that are missing: centres, then ``budget`` of Optuna's; what an earlier run finished is kept."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)  # a run that was killed
        while trials := self.next_trials():
            on_progress(f"search {len(self.finished())}/{len(self.planned()) + self.config.budget}")
            self.run_batch(trials)

    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def next_trials(self) -> list[optuna.Trial]:
        """The next batch: its sampler's seed follows from what is finished, so that a resumed run goes on the same."""
        done, planned = len(self.finished()), self.planned()
        left = len(planned) + self.config.budget - done
        self.study.sampler = optuna.samplers.TPESampler(
            seed=seed_of(self.seed, "sampler", str(done)) % 2**32,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=8,
        )
        centres = planned[done:]
        n = min(left, self.config.at_once, len(centres) or left)
        for number, centre in enumerate(centres[:n], start=done):
            source = "centre" if number < len(self.config.centres) else "gentler"
            self.study.enqueue_trial(centre.model_dump(), user_attrs={"source": source}, skip_if_exists=True)
        return [self.study.ask(SPACE) for _ in range(n)]

    def planned(self) -> list[Hyperparameters]:
        """The centres; where none of them gives a learnable circuit, gentler ones, with less weight on its size."""
        values = [trial.value for trial in self.finished()]
        planned = list(self.config.centres)
        most, mild = len(planned) + GENTLER, min(planned, key=lambda centre: centre.k_coef)
        while len(planned) <= len(values) and len(planned) < most and not any_learnable(values[: len(planned)]):
            mild = mild.model_copy(update={"k_coef": max(mild.k_coef / MILDER, LEAST_K_COEF)})
            planned.append(mild)
        return planned

    def run_batch(self, trials: Sequence[optuna.Trial]) -> None:
        """Search for all trials at once, discretise, tell Optuna how many edges each has at the target."""
        sets = [Hyperparameters.model_validate(trial.params) for trial in trials]
        seeds = [seed_of(self.seed, "noise", str(trial.number)) for trial in trials]
        orders = search(
            self.masking, self.train, self.config, sets, seeds, seed_of(self.seed, "batches"), self.watch(trials)
        )
        for i, trial in enumerate(trials):
            if i in orders:
                self.keep(trial.number, orders[i])
                most = self.most_units()
                self.finish(trial, self.rankings[trial.number].smallest(self.config.target_loss, most))

    def keep(self, number: int, order: Float[Tensor, " unit"]) -> None:
        """Hold on to a trial's ranking, for a later process too."""
        if self.storage is not None:
            save_file({"order": order}, self.storage / f"order-{number}.safetensors")
        self.rankings[number] = Ranking(self.evaluator, self.masking.layout, order)

    def most_units(self) -> int | None:
        """The first units of a ranking that are tried: a circuit of many more nodes than another trial's is none."""
        found = [
            trial.user_attrs["n_nodes"] for trial in self.finished() if trial.user_attrs.get("n_nodes") is not None
        ]
        return START + int(MANY_TIMES * min(found)) if found else None

    def finish(self, trial: optuna.Trial, found: Candidate | None) -> None:
        trial.set_user_attr("n_nodes", found.n_nodes if found else None)
        trial.set_user_attr("n_edges", found.n_edges if found else None)
        trial.set_user_attr("validation_loss", found.validation_loss if found else None)
        self.study.tell(trial, float(found.n_edges) if found else NONE_FOUND)

    def watch(self, trials: Sequence[optuna.Trial]) -> Callable[[int, Tensor, Tensor], list[bool]] | None:
        """Stops hopeless trials a few times in a search; those that were planned always go on to their end.

        Reported: kept nodes, and as many more as there are, times the loss above the target in nats.
        """
        if all("source" in trial.user_attrs for trial in trials):
            return None
        running = list(trials)
        every = max(1, self.config.steps // (CHECKS + 1))

        def look(step: int, losses: Tensor, kept: Tensor) -> list[bool]:
            if (step + 1) % every or step + 1 == self.config.steps:
                return [True] * len(running)
            excess = (losses - self.config.target_loss).clamp(min=0)
            for trial, value in zip(running, (kept * (1 + excess / self.config.target_loss)).tolist(), strict=True):
                trial.report(value, (step + 1) // every)
            go_on = [not trial.should_prune() for trial in running]
            for trial, goes_on in zip(running, go_on, strict=True):
                if not goes_on:
                    self.study.tell(trial, state=TrialState.PRUNED)
            running[:] = [trial for trial, goes_on in zip(running, go_on, strict=True) if goes_on]
            return go_on

        return look

    def best(self) -> Iterator[tuple[FrozenTrial, Ranking]]:
        """Finished trials that reach the target, fewest edges first, with their rankings."""
        complete = [trial for trial in self.finished() if trial.state is TrialState.COMPLETE]
        for trial in sorted(complete, key=lambda trial: (trial.value, trial.number)):
            if trial.value is not None and trial.value < NONE_FOUND:
                if trial.number not in self.rankings and self.storage is not None:  # of an earlier process
                    order = load_file(self.storage / f"order-{trial.number}.safetensors")["order"]
                    self.rankings[trial.number] = Ranking(self.evaluator, self.masking.layout, order)
                yield trial, self.rankings[trial.number]

    def table(self) -> list[TrialRow]:
        """A row a trial, in order."""
        return [
            {
                "number": number,
                "source": trial.user_attrs.get("source", "optuna"),
                "state": trial.state.name.lower(),
                "hyperparameters": trial.params,
                "n_nodes": trial.user_attrs.get("n_nodes"),
                "n_edges": trial.user_attrs.get("n_edges"),
                "validation_loss": trial.user_attrs.get("validation_loss"),
            }
            for number, trial in enumerate(self.finished())
        ]


def any_learnable(values: Sequence[float | None]) -> bool:
    """Whether a trial has found a circuit that masks over its edges make small."""
    return any(value is not None and value <= LEARNABLE for value in values)
