"""`python -m tests.lint.private_functions FOLDER LIMIT`: private functions that are used exactly once.

A helper that has one caller and a name that says no more than its body makes a reader look for it. Some are worth it;
many are not. So their number is bounded: at LIMIT or more, the places are listed and the exit code is 1.
"""

import ast
import sys
from collections import Counter
from pathlib import Path


def used_once(module: Path) -> list[tuple[int, str]]:
    """Line and name of each private function or method of a module that the module itself uses exactly once."""
    tree = ast.parse(module.read_text("utf-8"))
    uses = Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
    )
    return [
        (node.lineno, node.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("_")
        and not node.name.endswith("__")
        and uses[node.name] == 1
    ]


def main(folder: str, limit: str) -> int:
    """The exit code."""
    found = [(module, *each) for module in sorted(Path(folder).rglob("*.py")) for each in used_once(module)]
    print(f"{len(found)} private functions in {folder} are used once; fewer than {limit} may be.")
    if len(found) < int(limit):
        return 0
    for module, line, name in found:
        print(f"  {module}:{line} {name}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
