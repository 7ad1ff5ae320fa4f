"""One word for one thing: private words that were given up do not come back as names, and no name has two meanings."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("pipeline", "flows") for path in (ROOT / folder).rglob("*.py"))

# A word given up, as a pattern of whole names in snake case → the word to use. "class x": only as a class;
# "Block.x": only as a member of that class; "prune/…": only in that folder; ".*_x_.*": anywhere in a name.
GIVEN_UP = {
    r".*_held(?!_out)_.*": "ablated_to, ablation_value (held_out is another word)",
    r".*_(holder|holding|hold_at)_.*": "NodeMasks, mask_nodes",
    r"(circuit|prune|validate|ablate|play)/.*_outside_.*": "complement",
    r"class _(held|picked|filtered|edge|live|few)_(linear|edges)_": "CutLinear",
    r"class _(picked|filtered)_": "CutLinear",
    r".*(?<!attention)_mass_.*": "attention_mass",
    r".*_fork_.*": "branch",
    r"(model|circuit|kernels)/_own_": "first_own",
    r".*_laid_.*": "layout",
    r"class _(padded|prompts)_": "PaddedPrompts, PackedPrompts",
    r"Block\.think": "mlp_out",
    r"Block\.at": "site",
    r"Block\.sparse": "abs_topk",
    r"(prune|validate)/_(order|baseline_order)_": "score",
    r"(prune|validate|explain|circuit)/.*_worths?_.*": "attribution",
    r"class _(sketch|judge)_": "Candidate, Evaluator",
    r"prune/.*_verdicts?_.*": "evaluation",
    r".*_(trails?|prices?|dear|bends)_.*": "RemovalPath, cost",
    r"prune/.*_drop_.*": "try_remove",
    r"class _(case|subject|runner)_": "PruneProblem, CircuitUnderTest, LoadedModel, Ablator",
    r"(prune|validate)/.*_(cases?|subjects?)_.*": "problem, tested, model",
    r"(prune|circuit|validate)/.*_further_.*": "extra",
    r"(prune|circuit)/_(since|until|replaced)_": "suffix, prefix, with_halves",
    r".*_ticks?_.*": "on_progress",
    r".*_rivals?_.*": "generalisation sets",
    r"constant _(most|more|dead|sure|near|pass)_": "a name that says what it bounds: MAX_START_RATIO, Z_99",
}

PROSE = {  # the same in comments, docstrings and docs: a pattern → the word to use
    r"held (at|as|to|value|values|nodes?)": "ablated to, ablation value",
    r"(is|are|was|were|be|being|all|else|others?) held(?! out)": "ablated",
    r"rivals?": "generalisation sets; other algorithms",
    r"trails?": "removal path",
    r"judges?": "evaluator",
    r"METHOD": "§4, of docs/method.md",
}
TEXTS = [path for path in SOURCES if path.name != "words.py"]  # that one lists English words
TEXTS += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def snake(name: str) -> str:
    """A name's words in lower case, with ``_`` before, between and after: ``_padded_prompts_``."""
    return "_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_") + "_"


def assigned(node: ast.stmt) -> list[str]:
    """The names that a statement binds by assignment."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]  # the A of A.b = c is not bound


def names_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every class, function, argument, field and module-level name; its kind: class, constant, its class or none.

    A local variable is no name that a reader meets elsewhere.
    """
    yield from (("constant", name) for node in tree.body for name in assigned(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield "class", node.name
            yield from ((node.name, name) for part in node.body for name in assigned(part))
            yield from ((node.name, part.name) for part in node.body if isinstance(part, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef):
            yield "", node.name
        elif isinstance(node, ast.arg):
            yield "", node.arg


def given_up(folder: str, source: str) -> set[str]:
    """The names of a source that have a word which was given up, with the word to use."""
    found = set()
    for kind, name in names_of(ast.parse(source)):
        forms = {snake(name), f"{kind} {snake(name)}", f"{kind}.{name}", f"{folder}/{snake(name)}"}
        found |= {
            f"{name} ({word})"
            for pattern, word in GIVEN_UP.items()
            if any(re.fullmatch(pattern, form) for form in forms)
        }
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_has_a_word_that_was_given_up(path: Path) -> None:
    assert given_up(path.relative_to(ROOT).parts[1], path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("prune", "class Judge: ..."),
        ("circuit", "def f(held_values): ..."),
        ("model", "class Block:\n    def think(self): ..."),
        ("prune", "class Found:\n    price: float"),
        ("prune", "MOST = 4"),
        ("model", "def f(mass): ..."),
    ],
)
def test_a_word_that_was_given_up_is_seen(folder: str, source: str) -> None:
    assert len(given_up(folder, source)) == 1


@pytest.mark.parametrize("source", ["held_out = 3", "def f(attention_mass, most): ...", "class PackedPrompts: ..."])
def test_ordinary_words_are_allowed(source: str) -> None:
    assert given_up("model", source) == set()


def definitions() -> dict[str, set[str]]:
    """Where each public class and type alias is defined, of which an alias spelt alike in two files counts once."""
    found = defaultdict(set)
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].add(str(path.relative_to(ROOT)))
            for name in assigned(node):
                if re.match(r"[A-Z][A-Za-z0-9]*[a-z]", name):
                    found[name].add(ast.unparse(node))
    return {name: places for name, places in found.items() if not name.startswith("_")}


def test_no_public_class_or_type_has_two_meanings() -> None:
    assert {name for name, places in definitions().items() if len(places) > 1} == set()


def prose(path: Path) -> str:
    """A page; of a module, its comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    return "\n".join(docs + re.findall(r"(?:^|  )# .*|#: .*", text, re.MULTILINE))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_no_word_that_was_given_up(path: Path) -> None:
    text = prose(path)
    found = {word for pattern, word in PROSE.items() if re.search(rf"\b{pattern}\b", text)}
    assert found == set()
