"""Validation: a battery of tests that tries to refute a circuit, and says how far it got (§6)."""

from pipeline.validate.checkpoint import validate_checkpoint, windows_of
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.features import residual_kurtosis
from pipeline.validate.validate import validate_circuit

__all__ = ["CircuitUnderTest", "residual_kurtosis", "validate_checkpoint", "validate_circuit", "windows_of"]
