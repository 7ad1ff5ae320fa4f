"""The house rules that a machine can check: who may import whom, how long a file may be, no packages but the locked."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for folder in ("pipeline", "flows", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
PAGES = sorted(path for kind in ("js", "css", "j2") for path in (ROOT / "pipeline").rglob(f"*.{kind}"))
LIBRARY = [path for path in SOURCES if path.is_relative_to(ROOT / "pipeline")]

STAGES = {"pretrain", "prune", "ablate", "validate", "explain", "report"}
BASE = {"ablation", "config", "refusal", "rows", "shape", "sites", "artifacts", "seeds", "stats", "whitespace"}
MODEL = BASE | {"kernels", "data", "model"}
CIRCUIT = MODEL | {"circuit"}
# part → the parts of pipeline that it may import besides itself
ALLOWED = {part: set(BASE) for part in BASE | {"kernels"}}
ALLOWED |= {"data": BASE | {"model"}, "model": MODEL, "circuit": CIRCUIT, "planted": CIRCUIT}
ALLOWED |= {"formats": CIRCUIT, "workspace": CIRCUIT | {"formats"}}
ALLOWED["example"] = CIRCUIT | {"prune", "workspace"}  # evaluates circuits again on a rounded model
ALLOWED |= {part: CIRCUIT | {"workspace"} for part in STAGES}
ALLOWED["validate"] |= {"prune"}  # it prunes its controls
ALLOWED["play"] = CIRCUIT | {"prune", "explain", "report", "workspace"}  # no stage: shows what they make
ALLOWED["face"] = CIRCUIT | {"report", "workspace"}  # the way in, which shows what the others make
FACE = {f"pipeline.face.{name}" for name in pipeline.__all__}
FACE |= {"pipeline.prune", "pipeline.validate", "typing.TYPE_CHECKING", "typing.Any"}
ORCHESTRATION = {"prefect", "mlflow", "dvc", "flows"}


def imports(source: str) -> set[str]:
    """Full names of all modules that a source imports, wherever it does, names imported from packages included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(path: Path) -> str:
    """The part of pipeline that a file belongs to: a folder, or a module beside them."""
    first = path.relative_to(ROOT / "pipeline").parts[0]
    return first.removesuffix(".py")


def wrong_imports(part: str, source: str) -> set[str]:
    """What a file of that part of pipeline imports against the law."""
    allowed = ALLOWED[part] | {part}
    names = [name.split(".") for name in imports(source)]
    sideways = [name for name in names if name[0] == "pipeline" and len(name) > 1 and name[1] not in allowed]
    return {".".join(name) for name in sideways + [name for name in names if name[0] in ORCHESTRATION]}


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", LIBRARY, ids=shown)
def test_imports_go_one_way_and_the_library_knows_no_orchestration(path):
    if part_of(path) == "__init__":
        assert imports(path.read_text(encoding="utf-8")) <= {"os", "importlib", *FACE}
    else:
        assert wrong_imports(part_of(path), path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("prune", "from pipeline.pretrain.loop import pretrain"),
        ("prune", "from pipeline import report"),
        ("prune", "def late():\n    import pipeline.ablate"),
        ("data", "from pipeline.prune import prune_task"),
        ("config", "from pipeline.data.tasks import generate"),
        ("report", "import mlflow.tracking"),
        ("model", "from flows.stage import load_study"),
    ],
)
def test_the_law_refuses_what_breaks_it(part, source):
    assert len(wrong_imports(part, source)) == 1


def test_every_part_of_the_library_has_its_place_in_the_law():
    assert {part_of(path) for path in LIBRARY} - {"__init__"} == set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES + PAGES, ids=shown)
def test_every_file_is_short_enough_to_be_read_at_once(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stat().st_size == 0


def test_no_module_is_named_as_one_of_the_standard_library():
    """A stage run as ``python flows/x.py`` has flows/ first on its path."""
    assert not {path.stem for path in SOURCES if path.stem != "__init__"} & set(sys.stdlib_module_names)


def test_stage_flow_package_and_params_section_share_one_word(params):
    stages = {"corpus", "tokenise", "tasks", "generalisation", *STAGES}
    assert all((ROOT / "flows" / f"{stage}.py").is_file() for stage in stages)
    assert stages <= set(type(params).model_fields)
    assert all((ROOT / "pipeline" / stage).is_dir() for stage in STAGES)
