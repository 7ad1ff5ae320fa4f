"""The tasks by name. A new one is a decorated function in any file of ``pipeline/data/tasks/prompts``."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from pipeline.data.pair_tables import TaskError
from pipeline.data.tasks.base import Draw, Pair, Task

# The paper's Table 1, in its order; tasks added to it come after, by name.
TABLE_1 = (
    "single_double_quote",
    "bracket_counting",
    "set_or_string",
    "set_or_string_fixedvarname",
    "final_kwarg",
    "class_init",
    "with_as",
    "bracket_brace",
    "with_open",
    "for_while",
    "else_elif",
    "fstring_brace",
    "if_ternary",
    "var_swap",
    "indent_for",
    "lambda_func",
    "if_equals",
    "enumerate_range",
    "var_if",
    "while_return_true",
)

_tasks: dict[str, Task] = {}


def task(
    *, decides: str, answers: tuple[str, str], variant: str | None = None, varied: bool = False
) -> Callable[[Callable[[Draw], Pair]], Callable[[Draw], Pair]]:
    """A decorator that files a generator under its function's name. Fields as in ``Task``."""

    def register(make: Callable[[Draw], Pair]) -> Callable[[Draw], Pair]:
        name, description = make.__name__, (make.__doc__ or "").strip().split("\n")[0]
        if not description:
            raise TaskError(f"task {name} has no docstring; its first line is the task's description")
        if name in _tasks and _tasks[name].make.__module__ != make.__module__:
            raise TaskError(f"task {name} is in {make.__module__} and in {_tasks[name].make.__module__}; rename one")
        _tasks[name] = Task(name, description, decides, answers, variant, varied, make)
        return make

    return register


@cache
def _discover() -> None:
    """Imports every module of ``prompts``: their decorators fill the registry."""
    prompts = importlib.import_module("pipeline.data.tasks.prompts")
    for module in pkgutil.iter_modules(prompts.__path__, prompts.__name__ + "."):
        importlib.import_module(module.name)


def task_names() -> tuple[str, ...]:
    """All tasks: those of the paper's Table 1 in its order, then added ones by name."""
    _discover()
    return tuple(sorted(_tasks, key=lambda name: (TABLE_1.index(name) if name in TABLE_1 else len(TABLE_1), name)))


def find_task(name: str) -> Task:
    """The task of that name. Raises TaskError that names the nearest one."""
    names = task_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(names)}"
        raise TaskError(f"unknown task {name!r}; {hint}")
    return _tasks[name]
