"""``dvc plots show`` draws without the network, as ``make setup`` leaves it; ``dvc metrics diff`` reads well."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.plots import install

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page that ``dvc plots show`` writes for the committed results, outside any git checkout."""
    root = tmp_path_factory.mktemp("plots")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    shutil.copytree(ROOT / ".dvc" / "plots", root / ".dvc" / "plots")
    (root / "results").mkdir()
    for name in ("frontier.csv", "curves.csv"):
        shutil.copy(ROOT / "results" / name, root / "results")
    report = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["report"]
    stages = {"report": {"cmd": "true", "plots": report["plots"]}}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    install(root)
    assert "no_scm = true" in (root / ".dvc" / "config.local").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "dvc", "plots", "show"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (root / "dvc_plots" / "index.html").read_text(encoding="utf-8")


def test_the_plots_page_brings_its_own_scripts(shown: str) -> None:
    assert "<script src" not in shown and "vegaEmbed" in shown
    assert "Capability against interpretability" in shown and "Circuit size against target loss" in shown


def test_every_place_of_a_template_is_filled(shown: str) -> None:
    assert "<DVC_METRIC_" not in shown
