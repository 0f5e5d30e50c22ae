"""The imports of every module, read from its text: nothing is run, so what a test says holds on every machine."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("ml_common", "services", "understudy")


@dataclass(frozen=True)
class Import:
    """One import. ``target`` is `a.b` of `import a.b`, and `a.b.c` of `from a.b import c`; ``typing_only`` under TYPE_CHECKING."""

    target: str
    line: int
    at_top: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """A module of ours."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def place(self) -> str:
        """Its path in the repository."""
        return self.path.relative_to(REPOSITORY).as_posix()

    @property
    def service(self) -> str:
        """`faces` of `services.faces.app`; empty outside of services."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "services" and len(parts) > 1 else ""

    def imports(self) -> list[Import]:
        """Everything that it imports, wherever."""
        return list(
            _imports(self.tree.body, self.name, is_package=self.path.name == "__init__.py", top=True, typing=False)
        )


@cache
def modules() -> tuple[Module, ...]:
    """All of ours but the generated ones."""
    found = []
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            relative = path.relative_to(REPOSITORY)
            if relative.parts[:2] != ("understudy", "v1"):
                name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
                found.append(Module(name, path, ast.parse(path.read_text())))
    return tuple(found)


def within(target: str, *packages: str) -> bool:
    """Whether an import is of one of the packages or of something inside them."""
    return any(target == package or target.startswith(f"{package}.") for package in packages)


def _imports(body: list[ast.stmt], module: str, *, is_package: bool, top: bool, typing: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, top, typing)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parents, base]).rstrip(".")
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno, top, typing)
        else:
            guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            # Classes run at import too; functions do not.
            inner = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for part in ("body", "orelse", "finalbody"):
                statements = [child for child in getattr(node, part, []) if isinstance(child, ast.stmt)]
                hidden = typing or (guarded and part == "body")
                yield from _imports(statements, module, is_package=is_package, top=inner, typing=hidden)
            for handler in getattr(node, "handlers", []) + getattr(node, "cases", []):
                yield from _imports(handler.body, module, is_package=is_package, top=inner, typing=typing)
