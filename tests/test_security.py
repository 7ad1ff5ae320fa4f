"""Nothing that is read is run: no pickle, no shell, no evaluation, and YAML by the safe loader only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("pipeline", "flows", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load",
    "cloudpickle.load", "cloudpickle.loads", "torch.hub.load", "yaml.unsafe_load", "yaml.full_load", "marshal.loads",
}  # fmt: skip
ONLY_WITH = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
    "yaml.load": ("Loader", "UniqueKeys"),
}


def wrong_calls(source: str) -> list[str]:
    """What a source calls that would run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in NEVER or given.get("shell", "False") != "False":
                found.append(ast.unparse(node))
            elif name in ONLY_WITH and given.get(ONLY_WITH[name][0]) != ONLY_WITH[name][1]:
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert wrong_calls(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["eval(x)", "torch.load(p)", "torch.load(p, weights_only=False)", "subprocess.run(c, shell=True)", "yaml.load(t)",
     "np.load(p, allow_pickle=True)"],
)  # fmt: skip
def test_what_would_run_it_is_found(source: str) -> None:
    assert wrong_calls(source)
