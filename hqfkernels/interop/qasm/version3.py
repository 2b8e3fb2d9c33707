"""OpenQASM 3 as the syntax tree of the OpenQASM working group (package ``openqasm3``)."""

from __future__ import annotations

import re
from typing import Any

from antlr4.error.ErrorListener import ErrorListener  # type: ignore[import-untyped]
from openqasm3 import parser as _parser

_antlr: Any = _parser
"""What `openqasm3.parse` is made of, which itself prints."""


def error_at(node: Any, message: str) -> ValueError:
    """An error with the line of a part of the program."""
    return ValueError(f"qasm: line {node.span.start_line}: {message}" if node.span else f"qasm: {message}")


class _Listener(ErrorListener):  # type: ignore[misc]
    """Raises what is no token, where the default prints it and goes on."""

    def syntaxError(self, recognizer: Any, symbol: Any, line: int, column: int, message: str, error: Any) -> None:
        raise ValueError(f"qasm: line {line}: {message}: this is not OpenQASM 3")


_SET_OF_QUBITS = re.compile(r"(\blet\s+\w+\s*=\s*)\{([^{}]*)\}(\s*;)")
"""``let r = {q[1], q[0]};``, as Qiskit writes it, which the specification has as ``let r = q[1] ++ q[0];``."""


def parse(text: str) -> Any:
    """OpenQASM 3 as a syntax tree: `openqasm3.parse` without what it prints."""
    text = _SET_OF_QUBITS.sub(lambda match: match[1] + match[2].replace(",", " ++ ") + match[3], text)
    lexer = _antlr.qasm3Lexer(_antlr.InputStream(text))
    parser = _antlr.qasm3Parser(_antlr.CommonTokenStream(lexer))
    lexer.removeErrorListeners()
    lexer.addErrorListener(_Listener())
    parser.removeErrorListeners()
    parser._errHandler = _antlr.BailErrorStrategy()
    try:
        return _antlr.QASMNodeVisitor().visitProgram(parser.program())
    except _antlr.ParseCancellationException as error:
        token = error.args[0].offendingToken
        raise ValueError(f"qasm: line {token.line}: near {token.text!r}: this is not OpenQASM 3") from error
    except _antlr.QASM3ParsingError as error:
        line, _, message = str(error).removeprefix("L").partition(": ")
        raise ValueError(f"qasm: line {line.partition(':')[0]}: {message}: this is not OpenQASM 3") from error
    except RecursionError:
        raise ValueError("qasm: an expression or a block is nested too deeply") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if str(error).startswith("qasm: "):
            raise
        raise ValueError("qasm: this is not OpenQASM 3") from error  # the tree's builder was not made for this text
