"""The stage corpus: functions from the sources of params.yaml, without duplicates and task prompts, in two splits.

A source supplies characters up to its weight, real code always at least as many as the generated idioms.
Whole packages, modules or files go to validation, never pieces of them.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from pipeline.artifacts import whole_folder, write_json
from pipeline.config import CorpusConfig
from pipeline.data.contamination import TailIndex, check_clean
from pipeline.data.sources import Document, DocumentSource, open_source
from pipeline.data.sources.document import Tally
from pipeline.refusal import RefusalError
from pipeline.seeds import seed_of

CORPUS_FILE = "corpus.parquet"
REPORT_FILE = "report.json"
SPLITS = ("train", "validation")
MAX_REASONS = 3  # that a message names


class CorpusError(RefusalError, ValueError):
    """The sources do not give a corpus of use."""


@dataclass(frozen=True)
class Entry:
    """One function of the corpus; ``sha256`` is of its text with every run of white space made one space."""

    text: str
    source: str
    sha256: str
    group: str
    split: str = "train"


def build_corpus(config: CorpusConfig, seed: int, lock: Path, tails: Collection[str], folder: Path) -> dict[str, Any]:
    """The report of the corpus written to ``folder`` (corpus.parquet and report.json).

    ``tails`` are the ends of all task prompts: a function that holds one is dropped. Characters count after
    all cuts. Raises SourceError for a source that gives nothing, CorpusError for a corpus without a training or a
    validation split, ContaminationError if a tail is left in the training split.
    """
    named = _name_sources(config, seed, lock)
    gathering = _Gathering(TailIndex(tails))
    for name, source, budget in sorted(named, key=lambda item: item[0] == "idioms"):  # when the real part is known
        gathering.take(name, source, budget if name != "idioms" else min(budget, gathering.n_chars))
    entries = _split(gathering.entries, config.validation_frac, seed)
    Random(seed_of(seed, "corpus order")).shuffle(entries)
    _refuse_useless(entries)
    n_found = check_clean((entry.text for entry in entries if entry.split == "train"), gathering.index)
    report = _report(entries, {name: source for name, source, _ in named}, gathering, n_found)
    with whole_folder(folder) as partial:
        _write(entries, partial / CORPUS_FILE)
        write_json(partial / REPORT_FILE, report)
    return report


def _name_sources(config: CorpusConfig, seed: int, lock: Path) -> list[tuple[str, DocumentSource, int]]:
    """Every source opened, under a name of its own, with its budget in characters."""
    named = []
    seen: Counter[str] = Counter()
    for settings in config.sources:
        seen[settings.kind] += 1
        number = seen[settings.kind]
        if settings.kind == "idioms" and number > 1:
            raise CorpusError("corpus.sources lists idioms twice; allowed: once, with a weight of at most 0.5")
        name = settings.kind if number == 1 else f"{settings.kind}-{number}"
        named.append((name, open_source(settings, seed, lock), round(settings.weight * config.n_chars)))
    return named


class _Gathering:
    """The documents taken from the sources so far."""

    def __init__(self, index: TailIndex) -> None:
        self.index = index
        self.entries: list[Entry] = []
        self.n_chars = 0
        self.n_dropped = 0
        self.budgets: dict[str, int] = {}
        self._seen: set[str] = set()

    def take(self, name: str, source: DocumentSource, budget: int) -> None:
        """Documents of a source until the budget is reached or the source ends."""
        self.budgets[name] = budget
        taken, of_group, full = 0, Counter[str](), set[str]()
        cap = source.max_group_frac * budget
        with tqdm(total=budget, desc=f"corpus: {name}", unit="char", unit_scale=True) as progress:
            for document in source.documents(full):
                if taken >= budget:
                    break
                if document.group in full:
                    continue
                n = self._admit(name, source, document)
                taken += n
                of_group[document.group] += n
                if of_group[document.group] >= cap:
                    full.add(document.group)
                progress.update(n)
        self.n_chars += taken
        _refuse_lost(name, source.tally, budget, taken)

    def _admit(self, name: str, source: DocumentSource, document: Document) -> int:
        """The document's characters if it becomes part of the corpus, 0 if it is refused."""
        digest = hashlib.sha256(" ".join(document.text.split()).encode()).hexdigest()
        if digest in self._seen:
            source.tally.skipped["duplicate"] += 1
            return 0
        self._seen.add(digest)
        if self.index.find(document.text) is not None:
            source.tally.skipped["holds a task prompt"] += 1
            self.n_dropped += 1
            return 0
        self.entries.append(Entry(document.text, name, digest, document.group))
        return len(document.text)


def _refuse_lost(name: str, tally: Tally, budget: int, taken: int) -> None:
    """Raises CorpusError for a source that gives nothing, or falls short because more than half of it cannot be read.
    What else was damaged is named in a warning."""
    if budget and not taken:
        left_out = ", ".join(f"{n} {reason}" for reason, n in tally.skipped.most_common(MAX_REASONS))
        named = f"; {tally.said()}" if tally.damaged else ""
        raise CorpusError(
            f"corpus source {name}: gives no function (left out: {left_out or 'nothing'}{named}); correct it or leave "
            "it out of corpus.sources"
        )
    if taken < budget and tally.n_lost > tally.n_texts:
        raise CorpusError(
            f"corpus source {name}: {tally.n_lost} files and rows cannot be read, only {tally.n_texts} can: "
            f"{tally.said()}; correct it or leave it out of corpus.sources"
        )
    if tally.damaged:
        print(f"warning: corpus source {name}: left out {tally.said()}", file=sys.stderr)


def _split(entries: Sequence[Entry], validation_frac: float, seed: int) -> list[Entry]:
    """The entries, some for validation: per source, whole groups in an order of their hashes, as long as they fit."""
    sizes: dict[str, Counter[str]] = {}
    for entry in entries:
        sizes.setdefault(entry.source, Counter())[entry.group] += len(entry.text)
    held_out = {
        (source, group)
        for source, groups in sizes.items()
        for group in _hold_out(groups, validation_frac, seed_of(seed, "validation", source))
    }
    splits = ("validation" if (entry.source, entry.group) in held_out else "train" for entry in entries)
    return [replace(entry, split=split) for entry, split in zip(entries, splits, strict=True)]


def _hold_out(sizes: Counter[str], validation_frac: float, seed: int) -> set[str]:
    """Groups that hold at most that fraction of the characters: at least one, unless there is only one."""
    room = validation_frac * sizes.total()
    chosen: set[str] = set()
    for group in sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).digest()):
        if sizes[group] <= room:
            chosen.add(group)
            room -= sizes[group]
    if not chosen and len(sizes) > 1:
        return {min(sizes, key=lambda group: (sizes[group], group))}
    return chosen


def _refuse_useless(entries: Sequence[Entry]) -> None:
    found = Counter(entry.split for entry in entries)
    for split in SPLITS:
        if not found[split]:
            raise CorpusError(
                f"the {split} split is empty ({len(entries)} functions in all): the corpus is too small; raise "
                "corpus.n_chars or corpus.validation_frac, or give sources of more than one file"
            )


def _report(
    entries: Sequence[Entry], sources: dict[str, DocumentSource], gathering: _Gathering, n_found: int
) -> dict[str, Any]:
    """Counts per source and split, what was left out and why, the contamination check, and the corpus' hash."""
    per_source = {
        name: {
            "requested_chars": gathering.budgets[name],
            **_count([entry for entry in entries if entry.source == name]),
            "files": source.tally.files,
            "skipped": dict(sorted(source.tally.skipped.items())),
            **({"damaged": source.tally.damaged} if source.tally.damaged else {}),
        }
        for name, source in sources.items()
    }
    n_tails = gathering.index.n_tails
    return {
        **_count(entries),
        "hash": _hash(entries),
        "sources": per_source,
        "contamination": {"n_tails": n_tails, "n_dropped": gathering.n_dropped, "n_found": n_found},
    }


def _count(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    mine = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
    return {
        "n_functions": {split: len(found) for split, found in mine.items()},
        "n_chars": {split: sum(len(entry.text) for entry in found) for split, found in mine.items()},
        "n_groups": {split: len({(entry.source, entry.group) for entry in found}) for split, found in mine.items()},
    }


def _hash(entries: Sequence[Entry]) -> str:
    """sha256 over texts, sources and splits in their order: the identity of the corpus."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.split}\0{entry.source}\0{entry.text}\0".encode())
    return digest.hexdigest()


def _write(entries: Sequence[Entry], path: Path) -> None:
    columns = ("text", "source", "sha256", "split")
    table = pyarrow.table({column: [getattr(entry, column) for entry in entries] for column in columns})
    pyarrow.parquet.write_table(table, path, compression="zstd", row_group_size=4096)
