"""Phase 2: search. The eight hyperparameters of Table 2 are tuned for every model and task (§4).

Trials start at the study's centres; with a budget, Optuna proposes more (its TPE sampler), several at a time, which run
as one batch of masks. Hopeless ones are stopped early by Optuna's successive halving. The objective is the number that
the paper reports: edges at the target loss, after Phase 3.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.artifacts import ArtifactError, disk_refusal, memory_ended, readable, whole_file
from pipeline.config import Hyperparameters
from pipeline.prune import limits
from pipeline.prune.discretise import Ranking
from pipeline.prune.evaluator import Measured, sizes
from pipeline.prune.problem import PruneProblem
from pipeline.prune.search import search
from pipeline.rows import TrialRow
from pipeline.seeds import seed_of

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE: dict[str, BaseDistribution] = {
    name: FloatDistribution(*ends, log=name not in limits.LINEAR) for name, ends in limits.RANGES.items()
}
JOURNAL = "trials.log"
SET_TRIAL_STATE = JournalOperation.SET_TRIAL_STATE_VALUES.value
END_OF_BATCH = JournalOperation.SET_STUDY_USER_ATTR.value
NO_CIRCUIT = 1e9  # the objective of a trial that no number of nodes brings to the target


def mend(storage: Path) -> None:
    """Make a search's folder good that a kill or a crash left, so that what follows has the bits of an unbroken search.

    The trials of a batch in hand are forgotten, for Optuna proposes what follows from all that it was told. A torn end
    of the journal is cut off, and where a ranking that the journal counts on is missing or damaged, the search begins
    again. Warns of these two.
    """
    journal, said = storage / JOURNAL, []
    if not journal.is_file():
        return
    content = journal.read_bytes()
    if len(whole := whole_lines(content)) < len(content):
        said.append(f"{journal} has a torn end; the search goes on from the batch of trials before")
    if (kept := whole_batches(whole)) != content:
        with whole_file(journal) as partial:
            partial.write_bytes(kept)
    for number in scored(kept):
        try:
            load_file(readable(storage / f"scores-{number}.safetensors"))["scores"]
        except (SafetensorError, OSError, KeyError):
            said.append(f"{storage}: the ranking of trial {number} is missing or damaged; the search begins again")
            _clear(storage)
            break
    for sentence in said:
        print(f"warning: {sentence}", file=sys.stderr)


def whole_lines(content: bytes) -> bytes:
    """The lines of a journal up to the first that is none."""
    end = 0
    for line in content.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or not isinstance(json.loads(line), dict):
                break
        except ValueError:
            break
        end += len(line)
    return content[:end]


def whole_batches(lines: bytes) -> bytes:
    """The lines of a journal up to the end of the last batch of trials; where none has ended, the first line, which
    makes the study."""
    found = lines.splitlines(keepends=True)
    ends = [i for i, line in enumerate(found) if i == 0 or json.loads(line).get("op_code") == END_OF_BATCH]
    return b"".join(found[: ends[-1] + 1]) if ends else b""


def scored(lines: bytes) -> list[int]:
    """The numbers of the trials that a journal says are complete, whose rankings are kept beside it."""
    found = []
    for line in lines.splitlines():
        entry = json.loads(line)
        if entry.get("op_code") == SET_TRIAL_STATE and entry.get("state") == TrialState.COMPLETE.value:
            found.append(int(entry["trial_id"]))
    return found


def open_study(storage: Path | None) -> optuna.Study:
    """The trials that are kept in a folder (None: in memory). Those of a journal that is no search's are forgotten."""
    if storage is None:
        return _study(InMemoryStorage())
    storage.mkdir(parents=True, exist_ok=True)
    try:
        mend(storage)
        study = _study(JournalStorage(JournalFileBackend(str(storage / JOURNAL))))
        study.get_trials(deepcopy=False)
        return study
    except Exception as error:  # whatever Optuna meets in lines that it did not write
        # of a journal that can be whole
        if disk_refusal(error) or memory_ended(error) or isinstance(error, PermissionError | ArtifactError):
            raise
        print(f"warning: {storage / JOURNAL} is damaged; the search begins again", file=sys.stderr)
        _clear(storage)
        return _study(JournalStorage(JournalFileBackend(str(storage / JOURNAL))))


def _study(storage: InMemoryStorage | JournalStorage) -> optuna.Study:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, bootstrap_count=0)
    return optuna.create_study(storage=storage, study_name="prune", load_if_exists=True, pruner=pruner)


def _clear(storage: Path) -> None:
    for path in storage.iterdir():
        path.unlink()


class Tuner:
    """Trials of one model and task, with the rankings that this process made."""

    def __init__(self, problem: PruneProblem, storage: Path | None = None) -> None:
        """``storage``: a folder."""
        self.problem, self.config, self.storage = problem, problem.config, storage
        self.rankings: dict[int, Ranking] = {}
        self.study = open_study(storage)

    def run(self, on_progress: Callable[[str], None]) -> None:
        """Make all trials that are missing: centres, then ``budget`` of Optuna's; an earlier run's trials are kept."""
        while trials := self.next_trials():
            on_progress(f"search {len(self.finished())}/{len(self.planned()) + self.config.budget}")
            self.run_batch(trials)

    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def next_trials(self) -> list[optuna.Trial]:
        """The next batch. The sampler's seed follows from the number of finished trials, so that a run that was killed
        proposes the same when it goes on."""
        done, planned = len(self.finished()), self.planned()
        left = len(planned) + self.config.budget - done
        self.study.sampler = optuna.samplers.TPESampler(
            seed=seed_of(self.problem.seed, "sampler", str(done)) % 2**32,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=limits.N_RANDOM_TRIALS,
        )
        centres = planned[done:]
        n = min(left, self.config.at_once, len(centres) or left)
        for number, centre in enumerate(centres[:n], start=done):
            source = "centre" if number < len(self.config.centres) else "gentler"
            self.study.enqueue_trial(centre.model_dump(), user_attrs={"source": source}, skip_if_exists=True)
        return [self.study.ask(SPACE) for _ in range(n)]

    def planned(self) -> list[Hyperparameters]:
        """The centres; where none of them goes well, gentler ones, with less weight on the circuit's size."""
        done, planned = self.finished(), list(self.config.centres)
        gentle = min(planned, key=lambda centre: centre.k_coef)
        for _ in range(limits.MAX_GENTLER_TRIALS):
            if len(done) < len(planned) or any(trial.user_attrs["went_well"] for trial in done[: len(planned)]):
                break
            k_coef = max(gentle.k_coef / limits.GENTLER_DIVISOR, limits.RANGES["k_coef"][0])
            gentle = gentle.model_copy(update={"k_coef": k_coef})
            planned.append(gentle)
        return planned

    def went_well(self, circuit: Measured | None, ranking: Ranking) -> bool:
        """Whether a trial's circuit at the target is one to go on from: not far larger than the one that the same
        ranking has at a target a little looser, and, if it is to be minimised, not too large for that."""
        if circuit is None:
            return False
        minimised = self.config.max_minimised_edges >= limits.MAX_LEARNABLE_EDGES
        if minimised and circuit.n_edges > limits.MAX_LEARNABLE_EDGES:
            return False
        looser = ranking.fewest(limits.LOOSER * self.config.target_loss)
        return looser is not None and circuit.n_edges <= limits.FAR_RATIO * max(looser.n_edges, limits.FEW_EDGES)

    def run_batch(self, trials: Sequence[optuna.Trial]) -> None:
        """Search for all trials at once, discretise, tell Optuna how many edges each has at the target."""
        problem, numbers = self.problem, [trial.number for trial in trials]
        sets = [Hyperparameters.model_validate(trial.params) for trial in trials]
        seeds = [seed_of(problem.seed, "noise", str(number)) for number in numbers]
        batches = seed_of(problem.seed, "batches")
        found = search(problem.masking, problem.train, self.config, sets, seeds, batches, self.watch(trials))
        for place, scores in found.items():
            if self.storage is not None:
                with whole_file(self.scores_file(numbers[place])) as partial:
                    save_file({"scores": scores}, partial)
            circuit, went_well = self.discretised(numbers[place], scores)
            for name, value in sizes(circuit).items():
                trials[place].set_user_attr(name, value)
            trials[place].set_user_attr("went_well", went_well)
            self.study.tell(trials[place], float(circuit.n_edges) if circuit else NO_CIRCUIT)
        self.study.set_user_attr("ended", numbers[-1])

    def discretised(self, number: int, scores: Tensor) -> tuple[Measured | None, bool]:
        """A trial's circuit at the target, and whether it went well. What is tried for these two is where later
        targets' bisections begin, so that a ranking of an earlier process has to be put to them again."""
        ranking = self.rankings[number] = self.problem.ranking(scores)
        circuit = ranking.fewest(self.config.target_loss, self.max_units(number))
        return circuit, self.went_well(circuit, ranking)

    def scores_file(self, number: int) -> Path:
        assert self.storage is not None
        return self.storage / f"scores-{number}.safetensors"

    def max_units(self, number: int) -> int | None:
        """How many units of a trial's ranking are tried: one that needs many more nodes than an earlier trial cannot be
        the best."""
        earlier = [trial for trial in self.finished() if trial.number < number]
        found = [n for trial in earlier if (n := trial.user_attrs.get("n_nodes")) is not None]
        return limits.START_UNITS + int(limits.MAX_NODES_RATIO * min(found)) if found else None

    def watch(self, trials: Sequence[optuna.Trial]) -> Callable[[int, Tensor, Tensor], list[bool]] | None:
        """Stops hopeless trials a few times in a search. None for planned trials, which all run to their end.

        Optuna compares trials by kept nodes · (1 + excess of the loss over the target / target).
        """
        if all("source" in trial.user_attrs for trial in trials):
            return None
        running = list(trials)
        every = max(1, self.config.steps // (limits.N_CHECKS + 1))

        def look(step: int, losses: Tensor, kept: Tensor) -> list[bool]:
            if (step + 1) % every or step + 1 == self.config.steps:
                return [True] * len(running)
            excess = (losses - self.config.target_loss).clamp(min=0)
            for trial, value in zip(running, (kept * (1 + excess / self.config.target_loss)).tolist(), strict=True):
                trial.report(value, (step + 1) // every)
            continued = [not trial.should_prune() for trial in running]
            for trial, continues in zip(running, continued, strict=True):
                if not continues:
                    self.study.tell(trial, state=TrialState.PRUNED)
            running[:] = [trial for trial, continues in zip(running, continued, strict=True) if continues]
            return continued

        return look

    def best(self) -> Iterator[tuple[FrozenTrial, Ranking]]:
        """Finished trials that meet the target, fewest edges first, with their rankings."""
        complete = [trial for trial in self.finished() if trial.state is TrialState.COMPLETE]
        for trial in sorted(complete, key=lambda trial: (trial.value, trial.number)):
            if trial.value is not None and trial.value < NO_CIRCUIT:
                if trial.number not in self.rankings:  # of an earlier process
                    self.discretised(trial.number, load_file(self.scores_file(trial.number))["scores"])
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
