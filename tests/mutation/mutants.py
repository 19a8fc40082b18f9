"""Every small fault that is sown into a module: an operator, a constant, a condition or a result changed. Pure."""

import ast
import copy
from collections.abc import Iterator
from typing import Final

import msgspec

MAX_CONTEXT: Final = 100
"""Characters of what is around a fault, for its name to have it."""

_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Pow: ast.Mult,
    ast.Mod: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


class Mutant(msgspec.Struct, frozen=True):
    """One fault: the module's whole source with it, and what it is for people.

    `name` outlives moved lines: it starts with the class or function that it is in, and ends with what is around it.
    """

    line: int
    name: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Each fault by itself, in the order of the source."""
    original = ast.parse(source)
    for index, (scope, around, node) in enumerate(_mutable(original)):
        for number, changed in enumerate(_changes(node)):
            tree = ast.parse(source)
            *_, target = list(_mutable(tree))[index]
            _replace(tree, target, list(_changes(target))[number])
            context = ast.unparse(around)
            place = f" in {context}" if len(context) <= MAX_CONTEXT and "\n" not in context else ""
            name = f"{scope}{ast.unparse(node)} -> {ast.unparse(changed)}{place}"
            yield Mutant(getattr(node, "lineno", 0), name, ast.unparse(ast.fix_missing_locations(tree)))


def _mutable(tree: ast.AST, scope: str = "") -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """The nodes that compute something, in their scope and node: no annotation, no docstring, no text for people."""
    if isinstance(tree, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        scope = f"{scope}{tree.name}: "
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "bases", "type_params", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_prose(child) or _is_alias(child) or _is_for_types(child):
                continue
            yield scope, tree, child
            yield from _mutable(child, scope)


def _is_prose(node: ast.AST) -> bool:
    constant = node.value if isinstance(node, ast.Expr) else node
    prose = isinstance(constant, ast.Constant) and isinstance(constant.value, str) and " " in constant.value
    return prose or (isinstance(node, ast.JoinedStr) and " " in ast.unparse(node))


def _is_alias(node: ast.AST) -> bool:
    """A name for a type, which nothing computes with."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Subscript | ast.BinOp)
        and "Literal" in ast.unparse(node)
    )


def _is_for_types(node: ast.AST) -> bool:
    """What the type checker holds the code to, or what asserts that it holds: no test can see it gone."""
    match node:
        case ast.keyword(arg=name):
            return name in ("frozen", "kw_only", "strict")
        case ast.Call(func=ast.Name(id=name)):
            return name == "TypeVar"
    return False


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=operators):
            for position, operator in enumerate(operators):
                changed = copy.deepcopy(node)
                changed.ops[position] = _COMPARISONS[type(operator)]()
                yield changed
        case ast.BoolOp(op=operator, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.Return(value=value) if value is not None and not _says_no(value):
            yield ast.Return(ast.Constant(None))
        case ast.Constant(value=value):
            yield from map(ast.Constant, _other_constants(value))


def _other_constants(value: object) -> Iterator[bool | int | str | bytes]:
    match value:
        case bool():
            yield not value
        case int():
            yield value + 1
        case str():
            yield f"X{value}"
        case bytes():
            yield b"X" + value


def _says_no(node: ast.AST) -> bool:
    """Whether None in its place would say the same."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def _replace(tree: ast.AST, target: ast.AST, changed: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, changed)
            elif isinstance(value, list) and any(each is target for each in value):
                setattr(parent, name, [changed if each is target else each for each in value])
