"""Code in dvc.yaml: a stage is out of date, and its units run again, when the code that makes its outputs changes."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# Imported, but no dependency
EVERYWHERE = {
    "pipeline/artifacts.py": "reads and writes files, whose contents are dependencies",
    "pipeline/ablation.py": "names of kinds, which are in the stage's params and circuits",
    "pipeline/config.py": "checks settings, which are in the stage's params",
    "pipeline/refusal.py": "words of messages",
    "pipeline/rows.py": "types of rows, for mypy: nothing is computed by them",
    "pipeline/shape.py": "checks a model's shape; stages that build a model name it",
}
READS_PAIRS = "reads pairs that another stage made; the pairs themselves are dependencies"
FOR_THE_COMMAND = "serves a command, a stage does not call it"
FOR_FOREIGN = "reads models of other projects; a study has none"
ONLY_ERRORS = "only its error is used"
EXCEPTIONS = {
    "corpus": {
        "pipeline/data/pairs.py": "batches of pairs; the corpus needs only the texts of prompts",
        "pipeline/data/tokenizer.py": "the corpus needs only the texts of prompts",
    },
    "tasks": {"pipeline/data/pairs.py": "batches of pairs; the stage only counts what it wrote"},
    "prune": {
        "pipeline/data/batches.py": ONLY_ERRORS,
        "pipeline/data/pair_tables.py": READS_PAIRS,
        "pipeline/data/tasks": READS_PAIRS,
        "pipeline/data/tokenizer.py": FOR_THE_COMMAND,
        "pipeline/data/words.py": READS_PAIRS,
        "pipeline/data/pairs_file.py": FOR_THE_COMMAND,
        "pipeline/workspace.py": FOR_THE_COMMAND,
        "pipeline/formats": FOR_THE_COMMAND,
    },
    "validate": {
        "pipeline/data/batches.py": ONLY_ERRORS,
        "pipeline/data/pairs_file.py": FOR_THE_COMMAND,
        "pipeline/workspace.py": FOR_THE_COMMAND,
        "pipeline/formats": FOR_THE_COMMAND,
    },
    "example": {"pipeline/data/pairs_file.py": FOR_THE_COMMAND, "pipeline/formats": FOR_FOREIGN},
    "report": {
        "pipeline/data": "reads pairs and tokens that other stages made",
        "pipeline/kernels": "runs models for the values in drawings, which their code changes by rounding only",
        "pipeline/model": "runs models for the values in drawings, which their code changes by rounding only",
    },
}


def modules_of(source: Path) -> set[Path]:
    """The files under pipeline/ that a file imports, relative to the project; imports for annotations do not count."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("pipeline."):
            parts = [file_of(f"{node.module}.{alias.name}") for alias in node.names]
            found |= {part or file_of(node.module) for part in parts}
    return {path for path in found if path is not None}


def file_of(module: str) -> Path | None:
    """The file of a module or package; None for a name that is neither."""
    path = Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if (ROOT / candidate).is_file()), None)


def reached(source: Path) -> set[Path]:
    """All files under pipeline/ that a file imports, or that those import."""
    seen: set[Path] = set()
    ahead = modules_of(ROOT / source)
    while ahead - seen:
        path = (ahead - seen).pop()
        seen.add(path)
        ahead |= modules_of(ROOT / path)
    return seen


def within(path: Path, places: list[Path]) -> bool:
    return any(path == place or place in path.parents for place in places)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_its_flow_imports(stage: str) -> None:
    described = STAGES[stage].get("do", STAGES[stage])
    depended = [Path(dep) for dep in described["deps"] if dep.startswith("pipeline/")]
    excepted = [Path(path) for path in EVERYWHERE | EXCEPTIONS.get(stage, {})]
    missing = {path for path in reached(Path("flows", f"{stage}.py")) if not within(path, [*depended, *excepted])}
    assert not missing, f"dvc.yaml: {stage}.deps lacks {sorted(map(str, missing))}"


@pytest.mark.parametrize("stage", EXCEPTIONS)
def test_an_exception_is_imported_and_no_dependency(stage: str) -> None:
    imported = reached(Path("flows", f"{stage}.py"))
    described = STAGES[stage].get("do", STAGES[stage])
    for path in map(Path, EXCEPTIONS[stage]):
        assert any(within(module, [path]) for module in imported), f"{stage} does not import {path}"
        assert str(path) not in described["deps"]
