"""The twenty tasks: contrast pairs as text (``generate``), in tokens (``encode_tasks``), read back (``TaskSet``)."""

from __future__ import annotations

from pipeline.data.pair_tables import TaskError
from pipeline.data.tasks.base import Pair, Side, Task
from pipeline.data.tasks.encode import encode_tasks
from pipeline.data.tasks.generate import generate, prompt_tails
from pipeline.data.tasks.registry import find_task, task_names
from pipeline.data.tasks.taskset import TaskSet

__all__ = [
    "Pair",
    "Side",
    "Task",
    "TaskError",
    "TaskSet",
    "encode_tasks",
    "find_task",
    "generate",
    "prompt_tails",
    "task_names",
]
