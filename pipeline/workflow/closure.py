"""Which source files decide a result: those that a step and its method import, found without running them.

Orchestration (the configuration, the table of methods, the package's own front) chooses what runs and is left
out: a new method, or another plan, makes no earlier result stale.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
ORCHESTRATION = {"pipeline", "pipeline.config", "pipeline.methods"}
IMPORT = re.compile(r"^[ \t]*from (pipeline[\w.]*) import (\([^)]*\)|.+)", re.MULTILINE)
TYPES_ONLY = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t].*\n|\n)+", re.MULTILINE)
COMMENT = re.compile("#.*")


def code_files(step: str, method_module: str | None = None) -> list[str]:
    """Source files that decide the result of a step (with a method), relative to the checkout, sorted.

    Parameters
    ----------
    step
        Name of a module of ``pipeline``, for example ``fit_baseline``.
    method_module
        The module that holds the method's class, for example ``pipeline.baselines.t_svd``.
    """
    return list(_closure(step, method_module))  # a plan of 1,000 runs asks for each of them


@cache
def _closure(step: str, method_module: str | None) -> tuple[str, ...]:
    waiting = [f"pipeline.{step}", *([method_module] if method_module else [])]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module not in found and module not in ORCHESTRATION:
            found.add(module)
            waiting += _imports(module)
    return tuple(sorted(str(_file(module).relative_to(PACKAGE.parent)) for module in found))


def code_paths(files: list[str]) -> list[str]:
    """The same files, where all of a folder's are among them as the folder alone."""
    paths = set(files)
    for folder in sorted((path for path in PACKAGE.rglob("*/") if path.name != "__pycache__"), reverse=True):
        inside = {str(file.relative_to(PACKAGE.parent)) for file in folder.rglob("*.py")}
        if inside and inside <= set(files):
            paths = {path for path in paths if not path.startswith(f"{folder.relative_to(PACKAGE.parent)}/")}
            paths.add(str(folder.relative_to(PACKAGE.parent)))
    return sorted(paths)


def _file(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _imports(module: str) -> list[str]:
    """Modules of ours that a module imports, at its top or inside its functions, packages above them included.

    Read off the text: to parse all files took a quarter of Snakemake's start. A test compares it with the parser's.
    """
    found: set[str] = set()
    for package, names in IMPORT.findall(TYPES_ONLY.sub("", _file(module).read_text(encoding="utf-8"))):
        for name in COMMENT.sub("", names).strip("()").split(","):
            parts = [*package.split("."), *name.split()[:1]]
            found |= {part for end in range(1, len(parts) + 1) if _file(part := ".".join(parts[:end])).is_file()}
    return sorted(found)
