"""The phases have one numbering: the package's docstring, docs/pruning.md and the code's docstrings agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import prune

ROOT = Path(__file__).parent.parent.parent
PHASES = dict(re.findall(r"^Phase (\d): ([\w\- ]+)\.", prune.__doc__, re.MULTILINE))


def test_the_page_s_table_has_the_package_s_phases():
    page = (ROOT / "docs" / "pruning.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (\d): ([\w\- ]+) \|", page, re.MULTILINE)) == PHASES and list(PHASES) == list("123456")


@pytest.mark.parametrize(("number", "name"), PHASES.items())
def test_the_code_of_a_phase_says_its_number_and_name(number, name):
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "pipeline" / "prune").glob("[a-z]*.py")]
    assert any(f"Phase {number}: {name}" in source for source in sources)
