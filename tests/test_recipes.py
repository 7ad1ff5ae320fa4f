"""What docs/python.md and the notebook show is run, block after block, in a fresh clone's place."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
RECIPES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.DOTALL)
NOTEBOOK = ROOT / "notebooks/first_circuit.ipynb"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with what a clone has for the recipes."""
    shutil.copytree(ROOT / "example", tmp_path / "example")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_but_the_longest_runs(clone):
    space: dict[str, object] = {}
    for recipe in RECIPES[:-1]:
        exec(compile(recipe, "docs/python.md", "exec"), space)
    assert (clone / "bracket_counting.svg").read_text(encoding="utf-8").startswith("<svg")


def test_the_recipe_that_prunes_and_validates_runs(clone):
    file = clone / "example" / "params.yaml"
    params = yaml.safe_load(file.read_text(encoding="utf-8"))  # smaller, to take seconds
    params["prune"] |= {"steps": 60, "curve_losses": [0.15], "baselines": [], "centres": params["prune"]["centres"][:1]}
    params["validate"] |= {"pairs": 8, "few_pairs": 4, "seeds": 0, "draws": 2, "n_random": 2, "adversary_steps": 2}
    file.write_text(yaml.safe_dump(params), encoding="utf-8")
    space: dict[str, object] = {}
    for recipe in (RECIPES[0], RECIPES[-1]):
        exec(compile(recipe, "docs/python.md", "exec"), space)


def test_recipes_are_ten_lines_at_most():
    assert all(len([line for line in recipe.splitlines() if line.strip()]) <= 10 for recipe in RECIPES)


def test_the_notebook_runs_from_its_folder(clone, monkeypatch):
    (clone / "notebooks").mkdir()
    monkeypatch.chdir(clone / "notebooks")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    space: dict[str, object] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), space)
    assert space["after"] != space["before"]
