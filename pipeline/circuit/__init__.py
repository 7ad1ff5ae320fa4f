"""Circuits, and the two ways to run one: the definition (``Masked``) and the compact executor (``Compact``)."""

from pipeline.circuit.circuit import Circuit, WrongModelError

__all__ = ["Circuit", "WrongModelError"]
