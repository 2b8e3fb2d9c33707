"""OpenQASM 2 (arXiv 1707.03429), read into the syntax tree of OpenQASM 3.

OpenQASM 3's grammar reads most of OpenQASM 2, but not all: its words (``input``, ``let``, ``float``, ...) are names in
OpenQASM 2, ``^`` is another operator, ``opaque`` is gone, and numbers are real where OpenQASM 3 has integers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from openqasm3 import ast

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)
    | (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<name>[^\W\d]\w*)
    | (?P<string>"[^"\n]*")
    | (?P<sign>->|[;,()\[\]{}+\-*/^])
    | (?P<other>.)""",
    re.VERBOSE,
)
_STANDARD_FUNCTIONS = ("sin", "cos", "tan", "exp", "ln", "sqrt")
_FUNCTIONS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"} | {name: name for name in _STANDARD_FUNCTIONS}
"""A function -> its name in OpenQASM 3. The inverse ones are Qiskit's addition."""

_WORDS = {"OPENQASM", "include", "qreg", "creg", "gate", "opaque", "if", "barrier", "measure", "reset", "pi"} | set(
    _STANDARD_FUNCTIONS
)

_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4}
"""How tightly an operator binds; a sign before a number stands between ``*`` and ``^``."""

_SIGN = 3


class Opaque(ast.Statement):
    """The body of a gate that is declared without one."""


@dataclass
class _Token:
    kind: str
    text: str
    line: int


def parse(text: str) -> ast.Program:
    """The statements of an OpenQASM 2 program, as OpenQASM 3 would say them.

    Raises:
        ValueError: for what is no OpenQASM 2, with the line.
    """
    try:
        return _Parser(text).program()
    except RecursionError:
        raise ValueError("qasm: an expression is nested too deeply") from None


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[_Token] = []
        line = 1
        for match in _TOKEN.finditer(text):
            kind = str(match.lastgroup)
            if kind != "space":
                self._tokens.append(_Token(kind, match[0], line))
            line += match[0].count("\n")
        self._tokens.append(_Token("end", "<EOF>", line))
        self._at = 0
        self._scope: Collection[str] = ()

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _fail(self, token: _Token, message: str = "this is not OpenQASM 2") -> ValueError:
        return ValueError(f"qasm: line {token.line}: near {token.text!r}: {message}")

    def _take(self, *wanted: str) -> _Token:
        """The next token, which must be of one of these kinds or texts."""
        token = self._next
        if token.kind not in wanted and token.text not in wanted:
            raise self._fail(token)
        self._at += 1
        return token

    def _skip(self, text: str) -> bool:
        """Whether the next token is this one, and if so, goes past it."""
        found = self._next.text == text
        self._at += found
        return found

    def _name(self) -> Any:
        token = self._take("name")
        if token.text in _WORDS:
            raise self._fail(token, "a word of OpenQASM 2 is no name")
        return _placed(ast.Identifier(token.text), token)

    def _list(self, item: Callable[[], Any]) -> list[Any]:
        """One or more items; Qiskit takes a comma behind the last one, too."""
        items = [item()]
        while self._skip(",") and self._next.text not in (")", ";", "{"):
            items.append(item())
        return items

    def program(self) -> ast.Program:
        if self._skip("OPENQASM"):
            self._take("number")
            self._take(";")
        statements: list[Any] = []
        while self._next.kind != "end":
            if not self._skip(";"):
                statements.append(self._statement())
        return ast.Program(statements=statements, version="2.0")

    def _statement(self) -> ast.Statement:
        token = self._next
        read = {
            "include": self._include,
            "qreg": self._register,
            "creg": self._register,
            "gate": self._definition,
            "opaque": self._definition,
            "measure": self._measure,
            "reset": self._reset,
            "if": self._if,
        }.get(token.text, self._application)
        return _placed(read(), token)

    def _include(self) -> ast.Statement:
        self._take("include")
        name = self._take("string").text[1:-1]
        self._take(";")
        return ast.Include(filename=name)

    def _register(self) -> ast.Statement:
        kind, name = self._take("name").text, self._name()
        self._take("[")
        size = self._integer()
        self._take("]")
        self._take(";")
        if kind == "qreg":
            return ast.QubitDeclaration(qubit=name, size=size)
        return ast.ClassicalDeclaration(type=ast.BitType(size=size), identifier=name, init_expression=None)

    def _integer(self) -> Any:
        token = self._take("number")
        if not token.text.isdigit() or len(token.text) > 9:
            raise self._fail(token, "expected an index or a size")
        return _placed(ast.IntegerLiteral(int(token.text)), token)

    def _definition(self) -> ast.Statement:
        kind, name = self._take("name"), self._name()
        angles: list[Any] = []
        if self._skip("(") and not self._skip(")"):
            angles = self._list(self._name)
            self._take(")")
        qubits = self._list(self._name)
        body: list[Any] = []
        if kind.text == "opaque":
            self._take(";")
            if name.name != "delay":  # which takes time and does nothing
                body = [_placed(Opaque(), kind)]
        else:
            self._take("{")
            self._scope = [angle.name for angle in angles]
            while not self._skip("}"):
                first = self._next
                body.append(_placed(self._application(), first))
            self._scope = ()
        return ast.QuantumGateDefinition(name, angles, qubits, body)

    def _operand(self) -> Any:
        name = self._name()
        if not self._skip("["):
            return name
        index = self._integer()
        self._take("]")
        return _placed(ast.IndexedIdentifier(name, [[index]]), name)

    def _application(self) -> ast.Statement:
        """A gate or a barrier, which are all that the body of a gate may have."""
        if self._skip("barrier"):
            qubits = [] if self._next.text == ";" else self._list(self._operand)
            self._take(";")
            return ast.QuantumBarrier(qubits=qubits)
        name = self._name()
        arguments: list[Any] = []
        if self._skip("(") and not self._skip(")"):
            arguments = self._list(self._expression)
            self._take(")")
        qubits = self._list(self._operand)
        self._take(";")
        return ast.QuantumGate(modifiers=[], name=name, arguments=arguments, qubits=qubits)

    def _measure(self) -> ast.Statement:
        first = self._take("measure")
        qubit = self._operand()
        self._take("->")
        target = self._operand()
        self._take(";")
        return ast.QuantumMeasurementStatement(_placed(ast.QuantumMeasurement(qubit), first), target)

    def _reset(self) -> ast.Statement:
        self._take("reset")
        qubit = self._operand()
        self._take(";")
        return ast.QuantumReset(qubit)

    def _if(self) -> ast.Statement:
        while self._take("if", "name", "number", "sign", "other").text != ";":
            pass
        return ast.BranchingStatement(ast.BooleanLiteral(True), [], [])

    def _expression(self, binding: int = 0) -> Any:
        """What follows, as far as operators bind more tightly than ``binding``."""
        token = self._take("number", "name", "(", "+", "-")
        left: Any
        if token.kind == "number":
            left = ast.FloatLiteral(float(token.text))
        elif token.text in ("+", "-"):
            left = self._expression(_SIGN)
            if token.text == "-":
                left = ast.UnaryExpression(ast.UnaryOperator["-"], left)
        elif token.text == "(":
            left = self._expression()
            self._take(")")
        elif token.text == "pi" or token.text in self._scope:
            left = ast.Identifier(token.text)
        elif token.text in _FUNCTIONS:
            self._take("(")
            left = ast.FunctionCall(ast.Identifier(_FUNCTIONS[token.text]), [self._expression()])
            self._take(")")
        else:
            raise self._fail(token, f"{token.text!r} is not declared")
        left = _placed(left, token)
        while (strength := _BINDING.get(self._next.text, 0)) > binding:
            operator = self._take("sign").text
            right = self._expression(strength - 1 if operator == "^" else strength)  # a ^ b ^ c is a ^ (b ^ c)
            name = "**" if operator == "^" else operator
            left = _placed(ast.BinaryExpression(ast.BinaryOperator[name], left, right), token)
        return left


def _placed(node: Any, at: Any) -> Any:
    """The node with the line of a token, or of another node."""
    line = at.line if isinstance(at, _Token) else at.span.start_line
    node.span = ast.Span(line, 0, line, 0)
    return node
