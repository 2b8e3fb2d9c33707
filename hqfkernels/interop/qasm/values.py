"""Expressions of OpenQASM 3: numbers, and angles that are affine in the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openqasm3 import ast

from hqfkernels.circuit import Angle
from hqfkernels.interop.qasm.version3 import error_at

Value = bool | int | float | Angle
"""What an expression is worth: int and uint are int, float and angle are float, and `Angle` has parameters."""

_MADE_OF = "an angle must be made of numbers, parameters, + - * / % ** and functions of constants"

_CONSTANTS = {"pi": math.pi, "π": math.pi, "tau": math.tau, "τ": math.tau, "euler": math.e, "ℇ": math.e}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "arcsin": math.asin,
    "arccos": math.acos,
    "arctan": math.atan,
    "exp": math.exp,
    "log": math.log,
    "ln": math.log,
    "sqrt": math.sqrt,
    "floor": lambda x: float(math.floor(x)),
    "ceiling": lambda x: float(math.ceil(x)),
}


def angle_value(node: Any, scope: Mapping[str, Value]) -> Angle:
    """The value of an expression, affine in the parameters."""
    try:
        return Angle.of(number_value(value_of(node, scope), node))
    except ValueError as error:
        raise _located(error, node) from error


def _located(error: Exception, node: Any) -> ValueError:
    """An error as one of the node, unless it is that of a part of the node."""
    return error if str(error).startswith("qasm: ") and isinstance(error, ValueError) else error_at(node, str(error))


def value_of(node: Any, scope: Mapping[str, Value]) -> Value:
    """The value of an expression; ``scope`` has those of names."""
    if isinstance(node, (ast.IntegerLiteral, ast.FloatLiteral, ast.BooleanLiteral)):
        return _finite(node.value, node)
    if isinstance(node, ast.Identifier):
        if node.name in scope:
            return scope[node.name]
        if node.name in _CONSTANTS:
            return _CONSTANTS[node.name]
        raise error_at(node, f"{node.name!r} is not declared")
    if isinstance(node, ast.UnaryExpression) and node.op.name == "-":
        return -number_value(value_of(node.expression, scope), node)
    if isinstance(node, ast.BinaryExpression):
        left, right = (number_value(value_of(side, scope), node) for side in (node.lhs, node.rhs))
        return _computed(node, lambda: _binary(node, left, right))
    if isinstance(node, ast.FunctionCall):
        arguments = [number_value(value_of(argument, scope), node) for argument in node.arguments]
        return _computed(node, lambda: _called(node, arguments))
    if isinstance(node, ast.Cast):
        return cast(node.type, node.argument, scope, node)
    raise error_at(node, _MADE_OF)


def _finite(value: Any, node: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise error_at(node, f"a constant must be finite, and this is {value}")
    return value


def _computed(node: Any, compute: Callable[[], Value]) -> Value:
    try:
        return _finite(compute(), node)
    except (ValueError, OverflowError) as error:
        raise _located(error, node) from error


def number_value(value: Value, node: Any) -> int | float | Angle:
    """A value that one can compute with."""
    if isinstance(value, bool):
        raise error_at(node, f"{_MADE_OF}; of true and false, write int(...) or float(...)")
    return value


def constant_value(value: Value, node: Any, what: str) -> int | float:
    """A value that depends on no parameter; ``what`` it is, for an error."""
    if isinstance(value, Angle):
        if value.inputs or value.weights:
            raise error_at(node, f"{what} depends on a parameter, but angles must be affine in the parameters")
        return value.constant
    return value


def _binary(node: Any, left: int | float | Angle, right: int | float | Angle) -> Value:
    operator = node.op.name
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        if isinstance(left, Angle):
            return left * constant_value(right, node, "a factor of a parameter")
        return left * right
    if operator == "/":
        divisor = constant_value(right, node, "the divisor")
        if not divisor:
            raise error_at(node, "an angle is divided by zero")
        if isinstance(left, int) and isinstance(divisor, int):
            if left % divisor and (left < 0) != (divisor < 0):
                raise error_at(
                    node,
                    f"{left} / {divisor} is a division of integers, whose negative result is rounded down by some and "
                    f"towards zero by others; for a real division write {left}.0 / {divisor}",
                )
            return left // divisor
        return left / divisor
    if operator == "%":
        values = [constant_value(side, node, "an operand of %") for side in (left, right)]
        if not all(isinstance(value, int) for value in values):
            raise error_at(node, "% takes integers; for others use mod(a, b)")
        return _remainder(*values)
    if operator == "**":
        return _power(constant_value(left, node, "the base"), constant_value(right, node, "the exponent"))
    raise error_at(
        node,
        f"operator {operator} is not supported"
        + (" (^ is a power in OpenQASM 2 only; write the product)" if operator == "^" else ""),
    )


def _power(base: int | float, exponent: int | float) -> int | float:
    if isinstance(base, int) and isinstance(exponent, int) and exponent < 0:
        raise ValueError(f"{base} ** {exponent} is a negative power of an integer; for a real power write {base}.0")
    try:
        power = math.pow(base, exponent)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{float(base)} ** {float(exponent)}: {error}") from error
    return base**exponent if isinstance(base, int) and isinstance(exponent, int) else power


def _remainder(left: int | float, right: int | float) -> int | float:
    if not right:
        raise ValueError("the remainder of a division by zero")
    if left < 0 or right < 0:
        raise ValueError(f"the remainder of {left} and {right}: OpenQASM does not say what it is for negative numbers")
    return left % right if isinstance(left, int) and isinstance(right, int) else math.fmod(left, right)


def _called(node: Any, arguments: Sequence[int | float | Angle]) -> Value:
    """A function of constants."""
    name = node.name.name
    count = 2 if name == "mod" else 1
    if name != "mod" and name not in _FUNCTIONS:
        raise error_at(node, f"function {name} is not supported, only mod, {', '.join(_FUNCTIONS)}")
    if len(arguments) != count:
        raise error_at(node, f"{name} takes {count} argument(s), got {len(arguments)}")
    values = [constant_value(argument, node, f"the argument of {name}") for argument in arguments]
    if name == "mod":
        return _remainder(*values)
    try:
        return _FUNCTIONS[name](float(values[0]))
    except (ValueError, OverflowError) as error:
        raise error_at(node, f"{name}({values[0]}): {error}") from error


def cast(kind: Any, expression: Any, scope: Mapping[str, Value], node: Any, declared: bool = False) -> Value:
    """A value as one of another type: by a cast, or (``declared``) as that of a constant."""
    name = type(kind).__name__.removesuffix("Type").lower()
    if not isinstance(kind, (ast.BoolType, ast.IntType, ast.UintType, ast.FloatType, ast.AngleType)):
        raise error_at(node, f"constants and casts of type {name} are not supported")
    value = value_of(expression, scope)
    designator = getattr(kind, "size", None)
    size = None if designator is None else integer_value(designator, scope)
    if isinstance(kind, (ast.FloatType, ast.AngleType)):
        if size is not None and size < 32:
            raise error_at(node, f"{name}[{size}]: rounding to less than 32 bits is not supported")
        if isinstance(value, Angle):
            return value
        if isinstance(kind, ast.AngleType) and (isinstance(value, bool) or not 0 <= value < math.tau):
            raise error_at(node, f"{value} is no angle from 0 to 2 pi, where OpenQASM 3 would wrap it; make it a float")
        return _computed(node, lambda: float(value))
    constant = constant_value(value, node, f"a value of type {name}")
    if isinstance(kind, ast.BoolType):
        return constant != 0
    whole = math.trunc(constant)
    bits = 64 if size is None else size
    if not 1 <= bits <= 1024:
        raise error_at(node, f"{name}[{bits}]: expected a size from 1 to 1024")
    low, high = (0, 1 << bits) if isinstance(kind, ast.UintType) else (-1 << bits - 1, 1 << bits - 1)
    if not low <= whole < high or (declared and whole != constant):
        raise error_at(node, f"{constant} is no {name}" + (f"[{size}]" if size is not None else ""))
    return whole


def integer_value(node: Any, scope: Mapping[str, Value]) -> int:
    """The value of an expression that is an index or a size."""
    value = constant_value(number_value(value_of(node, scope), node), node, "an index or size")
    if value != int(value):
        raise error_at(node, f"expected an integer, got {value}")
    return int(value)
