"""``sparse-circuits draw``: one circuit as SVG and as PDF; and refusals."""

from __future__ import annotations

import pytest
import vl_convert
from closing import TASK, run

from pipeline.face import on_paper

OF = ("--model", "models/tiny", "--task", TASK)


@pytest.fixture
def drawn(study, pruned, monkeypatch, capsys):
    """``drawn(*arguments)``: exit status, what was printed, and errors of the command in the workspace."""
    monkeypatch.chdir(study)

    def command(circuit, out):
        return run(monkeypatch, capsys, "draw", circuit, "-o", out, *OF)

    return command


def test_a_circuit_is_drawn_as_svg_pdf_and_png(drawn, tmp_path):
    for name, head in (("figure.svg", b"<svg"), ("figure.pdf", b"%PDF"), ("figure.png", b"\x89PNG")):
        status, out, _ = drawn("found", tmp_path / name)
        assert status == 0 and name in out
        assert (tmp_path / name).read_bytes().startswith(head)


def test_paper_has_no_variables_and_shows_colours(drawn, tmp_path):
    drawn("found/circuit.json", tmp_path / "figure.svg")
    plain = on_paper((tmp_path / "figure.svg").read_text(encoding="utf-8"))
    assert "var(" not in plain and "@media" not in plain and "<circle" in plain
    assert vl_convert.svg_to_png(plain) != vl_convert.svg_to_png((tmp_path / "figure.svg").read_text(encoding="utf-8"))


def test_other_endings_and_missing_circuits_are_refused(drawn, tmp_path):
    status, _, error = drawn("found", tmp_path / "figure.gif")
    assert status and "allowed: .svg, .png, .pdf" in error
    status, _, error = drawn("none", tmp_path / "figure.svg")
    assert status and "circuit.json" in error and not list(tmp_path.glob("figure*"))
