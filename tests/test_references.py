"""Every reference that a reader could follow leads somewhere: sections, links, pictures, files, modules."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".md", ".j2", ".yaml", ".toml", ".ipynb"}
LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
TEXTS = [
    name
    for name in LISTED
    if Path(name).suffix in KINDS and not name.startswith(("results/", "example/", "tests/test_ref"))
]
SECTIONS = set(re.findall(r"^## (\d+)\.", (ROOT / "docs/method.md").read_text(encoding="utf-8"), re.MULTILINE))
OTHERS = r"(?:paper’?'?s?|arXiv [\d.]+,|MIB,) §[\d.]+(?:(?: and|,) §[\d.]+)*"  # sections that are not of our page
FILE = r"(?<![\w/.<-])(?:pipeline|flows|docs|tests|benchmarks|profiles)/[\w/-]+\.(?:py|md|yaml|j2|js|css)\b"
MODULE = r"(?<![\w./])pipeline(?:\.[a-z_]\w*)+"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "docs/method.md"])
def test_sections_files_and_modules_that_a_text_names_exist(name: str) -> None:
    text = read(name)
    cited = re.findall(r"§(\d+)", re.sub(OTHERS, "", text))
    assert set(cited) <= SECTIONS
    assert {path for path in re.findall(FILE, text) if not (ROOT / path).exists()} <= IMAGINED.get(name, set())
    assert {found for found in re.findall(MODULE, text) if not leads_somewhere(found)} <= IMAGINED.get(name, set())


IMAGINED = {  # names that a test makes up, on purpose
    "tests/flows/test_mapped.py": {"pipeline/other.py"},
    "tests/test_architecture.py": {"flows/x.py"},
    "tests/test_face.py": {"pipeline.loadmodel"},
}


def leads_somewhere(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    parts = name.split(".")
    for n in range(len(parts), 1, -1):
        place = ROOT.joinpath(*parts[:n])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if module.is_file():
            return n == len(parts) or re.search(rf"\b{parts[n]}\b", module.read_text(encoding="utf-8")) is not None
    return hasattr(importlib.import_module("pipeline"), parts[1])


@pytest.mark.parametrize("name", [name for name in LISTED if name.endswith(".md") and not name.startswith("results/")])
def test_links_and_pictures_of_a_page_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(name))
    assert [
        link for link in links if not re.match(r"[a-z]+:", link) and not ((ROOT / name).parent / link).exists()
    ] == []


def test_a_reference_that_leads_nowhere_is_seen() -> None:
    assert not leads_somewhere("pipeline.nowhere") and leads_somewhere("pipeline.model.record")
    assert re.findall(FILE, "see pipeline/model/nowhere.py") == ["pipeline/model/nowhere.py"]
    assert "99" not in SECTIONS and {"1", "4", "8"} <= SECTIONS
