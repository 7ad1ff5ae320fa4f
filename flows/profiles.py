"""Profiles: what another size of the study changes in params.yaml. ``python -m flows.profiles paper`` takes one over.

A profile lists only what differs. Mappings are merged key by key, a list replaces a list, and ``models`` replaces all
of params.yaml's models, so that a profile's models are the ones it lists.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from flows import environment
from pipeline.artifacts import whole_file
from pipeline.config import ConfigError, parse_params


def profile_names(root: Path) -> list[str]:
    """The profiles of a project: profiles/<name>.yaml."""
    return sorted(path.stem for path in (root / "profiles").glob("*.yaml"))


def merged(root: Path, name: str) -> dict[str, Any]:
    """params.yaml's values with those of a profile over them, checked. Raises ConfigError."""
    if name not in profile_names(root):
        raise ConfigError(f"unknown profile {name!r}; profiles/ has {', '.join(profile_names(root))}")
    base, profile = (OmegaConf.load(root / file) for file in ("params.yaml", f"profiles/{name}.yaml"))
    if "models" in profile:
        OmegaConf.update(base, "models", {}, merge=False)
    values: Any = OmegaConf.to_container(OmegaConf.merge(base, profile))
    parse_params(values, origin=f"params.yaml with profiles/{name}.yaml")
    return values


def write_params(values: dict[str, Any], path: Path) -> None:
    """Write settings as a params.yaml, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Exit status of taking a profile over into params.yaml, whose comments go: version control has them."""
    parser = argparse.ArgumentParser(prog="python -m flows.profiles", description=__doc__)
    parser.add_argument("name", help="a file of profiles/, such as paper")
    name, root = parser.parse_args(arguments).name, environment.find_root()
    write_params(merged(root, name), root / "params.yaml")
    print(f"params.yaml is now the profile {name}; git checkout params.yaml brings the committed one back")
    return 0


if __name__ == "__main__":
    sys.exit(environment.guarded(main))
