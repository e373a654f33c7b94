"""Families of standard operators."""

from __future__ import annotations

__all__ = ["BINARY", "UNARY"]

# y[i] depends on x[i] alone.
UNARY = frozenset(
    {"Abs", "Cast", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg"}
    | {"Not", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh"}
)
# The same of two broadcast operands.
BINARY = frozenset({"Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "Sub"})
