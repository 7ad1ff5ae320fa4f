"""Functions of the standard library and of the installed packages that the lock file names: real, on every machine.

Which files are read, and in which order, depends on the lock, the Python version and the seed, never on where things
are installed or on what else is.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator, Set
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from pipeline.config import InstalledSource
from pipeline.data.sources.document import Document, FunctionSource, SourceError

# Parts of the standard library that some distributions leave out or generate.
NOT_EVERYWHERE = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "ensurepip"})
MAX_FILE_BYTES = 400_000  # larger files are generated
OWN_NAME = "sparse-circuits"  # this project, if it is installed itself, is no data


class InstalledFunctions(FunctionSource):
    """The source ``installed``."""

    max_group_frac = 0.03
    caught = False  # as when the study's corpus was made: they are counted

    def __init__(self, settings: InstalledSource, lock: Path, seed: int) -> None:
        super().__init__(settings)
        self._files = {**standard_library(), **locked_packages(lock)}
        self._seed = seed

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        """Functions file by file, the files in an order given by a hash of their names."""
        for name in sorted(self._files, key=lambda name: hashlib.sha256(f"{self._seed}\0{name}".encode()).digest()):
            group = _group(name)
            if group in closed:
                self.tally.skipped["file of a package that gave its share"] += 1
            elif (text := self.read(self._files[name], name)) is not None:
                yield from self.functions(text, group)


def _group(name: str) -> str:
    """The package, or the module of the standard library, that a file belongs to."""
    origin, module = name.split("/")[:2]
    return f"stdlib/{module.removesuffix('.py')}" if origin == "stdlib" else origin


def standard_library() -> dict[str, Path]:
    """The library's own .py files by stable name, ``stdlib/json/decoder.py``."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if NOT_EVERYWHERE.isdisjoint(parts) and not parts[0].startswith(("_sysconfigdata", "config-")):
            found["/".join(("stdlib", *parts))] = path
    return {name: path for name, path in found.items() if _small(path)}


def locked_packages(lock: Path) -> dict[str, Path]:
    """The .py files of every package that the lock names, by stable name, ``torch/torch/nn/modules/linear.py``.

    Raises SourceError where the lock is missing or damaged, or where what is installed is not what it says.
    """
    found: dict[str, Path] = {}
    for requirement in read_lock(lock):
        distribution = _installed(requirement, lock)
        name = requirement.name.lower().replace("_", "-").replace(".", "-")
        for file in distribution.files or ():
            if file.suffix == ".py" and ".." not in file.parts and name != OWN_NAME:
                path = Path(str(distribution.locate_file(file)))
                if _small(path):
                    found["/".join((name, *file.parts))] = path
    return found


def read_lock(lock: Path) -> list[Requirement]:
    """The requirements that a lock file holds for this machine. Raises SourceError."""
    if not lock.is_file():
        raise SourceError(f"{lock}: no such lock file; the source 'installed' reads the packages that it names")
    lines = [
        line.split(" #")[0].split(" --hash")[0].strip().rstrip("\\").strip() for line in lock.read_text().splitlines()
    ]
    try:
        parsed = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    except InvalidRequirement as error:
        raise SourceError(f"{lock}: not a line of the form name==version: {error}") from error
    if not parsed:
        raise SourceError(f"{lock}: names no package; allowed: one name==version a line")
    return [requirement for requirement in parsed if requirement.marker is None or requirement.marker.evaluate()]


def _installed(requirement: Requirement, lock: Path) -> metadata.Distribution:
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError as error:
        raise SourceError(f"{lock} names {requirement}, which is not installed; run make, which installs it") from error
    if not requirement.specifier.contains(distribution.version, prereleases=True):
        raise SourceError(
            f"{lock} names {requirement}, but {distribution.version} is installed; run make, which installs the lock"
        )
    return distribution


def _small(path: Path) -> bool:
    try:
        return path.stat().st_size <= MAX_FILE_BYTES
    except OSError:
        return False
