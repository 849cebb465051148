"""What a step's result depends on in our own code: a hash over the sources its module imports.

Only the import closure inside `drift` counts, so a change of the report reruns the report and no training.
Nothing is imported to find it: the sources are parsed, and imports inside functions count too.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "drift"
ROOT = Path(__file__).parent.parent
LIBRARIES = ("torch", "transformers")


@functools.cache
def code_fingerprint(module: str) -> str:
    """SHA-256 over the sources of `module` and of all it imports from `drift`, and the versions of torch and
    transformers. Files beside a module with its stem (`page.html.jinja` beside `page.py`) are part of it.
    Raises ModuleNotFoundError if there is no such module."""
    digest = hashlib.sha256()
    for path in sorted({file for name in import_closure(module) for file in _files(name)}):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    for library in LIBRARIES:
        digest.update(f"{library}=={importlib.metadata.version(library)}\n".encode())
    return digest.hexdigest()


@functools.cache
def import_closure(module: str) -> frozenset[str]:
    """Names of the modules inside `drift` that importing and running `module` can load, itself included."""
    if _source(module) is None:
        raise ModuleNotFoundError(f"no module {module}")
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(name))
    return frozenset(found)


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """The modules inside `drift` that the import statements of `module` name, and its packages."""
    return frozenset(name for name in _named(module) if _source(name) is not None)


def _named(module: str) -> Iterator[str]:
    """What may be such a module, or a name in one."""
    source = _source(module)
    assert source is not None
    parts = module.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts)))
    package = parts if source.name == "__init__.py" else parts[:-1]
    for node in _statements(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _prefixes(alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [start, node.module]))
            for alias in node.names:
                yield from _prefixes(f"{base}.{alias.name}")


def _statements(block: ast.AST) -> Iterator[ast.AST]:
    """All of a block and of those in it, without their expressions: most of a tree, and no imports."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for one in getattr(block, field, ()):
            yield one
            yield from _statements(one)


def _prefixes(name: str) -> Iterator[str]:
    """`drift.data.problems.ingestion` loads `drift` and `drift.data` as well."""
    parts = name.split(".")
    if parts[0] == PACKAGE:
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


@functools.cache
def _source(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split(".")[1:])
    if module.split(".")[0] != PACKAGE:
        return None
    candidates = [base / "__init__.py", base.with_name(base.name + ".py")] if base != ROOT else [base / "__init__.py"]
    return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _files(module: str) -> list[Path]:
    source = _source(module)
    assert source is not None
    if source.name == "__init__.py":
        return [source]
    return [path for path in source.parent.glob(source.stem + ".*") if path.is_file()]
