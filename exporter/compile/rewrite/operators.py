"""Families of standard operators."""

from __future__ import annotations

__all__ = ["BINARY", "UNARY"]

# y[i] depends on x[i] alone.
UNARY = frozenset(
    {
        "Abs",
        "Cast",
        "Ceil",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
    }
    | {"LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"}
    | {"Softsign", "Sqrt", "Tanh"}
)
# The same of two broadcast operands.
BINARY = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or", "Pow"}
    | {"Sub", "Xor"}
)
