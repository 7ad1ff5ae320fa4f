"""requirements.lock is the environment: no package differs from it, none is missing, none is extra."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.data.sources.installed import read_lock

ROOT = Path(__file__).parent.parent.parent
BROUGHT_BY_VENV = {"pip"}  # the tool that installs the lock
OF_CUDA = re.compile(r"nvidia-|cuda-|triton$")  # come along with a CUDA build of torch


def locked() -> dict[str, str]:
    """Name → version, as this Python has it: some packages are for the first 3.11 only."""
    pins = read_lock(ROOT / "requirements.lock")
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def installed() -> dict[str, str]:
    """Name → version, without the local label that tells builds (+cpu) apart."""
    found = {canonicalize_name(one.metadata["Name"]): Version(one.version).public for one in distributions()}
    ours = {"sparse-circuits", *BROUGHT_BY_VENV}
    return {name: version for name, version in found.items() if name not in ours and not OF_CUDA.match(name)}


def test_the_installed_set_is_the_locked_one():
    assert installed() == {name: version for name, version in locked().items() if name not in BROUGHT_BY_VENV}


def test_fastapi_is_one_with_which_flows_run():
    assert Version("0.139") <= Version(locked()["fastapi"]) < Version("0.151")


def test_everything_that_pyproject_asks_for_is_locked_and_fits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = locked()
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)], prereleases=True), line
