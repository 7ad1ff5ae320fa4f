"""The page that ``dvc plots show`` fills, with Vega inside: DVC's own page asks the network for it.

``python -m flows.plots`` (part of ``make setup``) writes .dvc/plots.html and names it in .dvc/config.local, which
belongs to this checkout alone; how the plots look is in .dvc/plots/*.json, what they show in dvc.yaml.
"""

from __future__ import annotations

from pathlib import Path

import vl_convert
from dvc.config import Config

from flows import environment

VEGA_LITE = "5.21"  # the plots are written for version 5
SNIPPET = "window.vegaEmbed = vegaEmbed;"
NAME = "plots.html"  # relative to .dvc, as DVC reads it
# DVC puts the plots in the place of {plot_divs}; without {scripts} it adds none of its own.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Plots of the study</title>
{refresh_tag}
<style>
body { font: 15px system-ui, sans-serif; margin: 1.5rem; }
table { border-spacing: 1rem; }
</style>
<script>VEGA</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def page() -> str:
    """The HTML that DVC fills, about 0.9 MB; it asks the network for nothing."""
    return PAGE.replace("VEGA", vl_convert.javascript_bundle(SNIPPET, VEGA_LITE))


def install(root: Path) -> Path:
    """Where the page of the workspace at ``root`` was written; its DVC uses it from now on. Raises OSError."""
    path = root / ".dvc" / NAME
    path.write_text(page(), encoding="utf-8")
    with Config(str(path.parent), validate=False).edit("local") as settings:
        settings.setdefault("plots", {})["html_template"] = NAME
    return path


if __name__ == "__main__":
    install(environment.find_root())
