# SPDX-License-Identifier: Apache-2.0
"""What the pages name exists: files, functions in them, pages and headings behind links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "training").rglob("*.md"),
    *(REPOSITORY / "anomaly_seg_ros" / "weights").glob("*.md"),
]
# The changelog tells of files that are gone.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
ROOTS = ("", "anomaly_seg_ros", "training", "docs")
# What readers make or others have.
FOREIGN = re.compile(
    r"my_|setup\.py$|fishyscapes_tfds|__init__\.py$|datasets/tracks\.py$|eval_ood|"
    r"streethazards_test|create_(bdd_)?dataset"
)


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def named_files(text: str) -> Iterator[tuple[str, str]]:
    """(path, qualified name in it or "") of what stands in back quotes as a Python file."""
    for path, name in re.findall(r"`([\w./-]+\.py)(?::([\w.]+))?`", text):
        if not FOREIGN.search(path):
            yield path, name


def found(path: str, page: Path) -> Path | None:
    places = [*(REPOSITORY / root / path for root in ROOTS), page.parent / path]
    if "/" not in path:  # a page about one folder may leave the folder out
        places += [*REPOSITORY.glob(f"[abt]*/**/{path}")]
    return next((place for place in places if place.is_file()), None)


def definitions(path: Path) -> set[str]:
    """Qualified names of a file's functions, classes, methods and constants."""
    names: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return names


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_named_python_file_exists_and_holds_what_is_named(page: Path):
    for path, name in named_files(page.read_text(encoding="utf-8")):
        file = found(path, page)
        assert file is not None, f"{name_of(page)} names {path}, which does not exist"
        assert not name or name in definitions(file), f"{name_of(page)}: no {name} in {path}"


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_named_module_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(
        r"(?:-m |`)((?:anomaly_seg_ros|training|tools|benchmarks)(?:\.\w+)+)", text
    ):
        parts = module.split(".")
        whole = REPOSITORY.joinpath(*parts)
        holder = REPOSITORY.joinpath(*parts[:-1]).with_suffix(".py")
        file = next(
            (f for f in (whole.with_suffix(".py"), whole / "__init__.py") if f.exists()), None
        )
        if file is None:  # a name in a module
            assert holder.is_file(), f"{name_of(page)} names {module}"
            assert parts[-1] in definitions(holder), f"{name_of(page)} names {module}"


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_command_named_exists(page: Path):
    """Targets of make, tests and scripts of the checkout, in code."""
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", page.read_text(encoding="utf-8"), re.S))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    named = set(re.findall(r"(?:^|[`\"'&] ?)make ([a-z-]+)", code, re.M))
    assert named <= targets, f"{name_of(page)} names unknown targets: {named - targets}"
    files = re.findall(r"(?<![\w./-])((?:test|tools|\.ci)/[\w./-]+)", code)
    absent = [path for path in files if not (REPOSITORY / path).exists()]
    assert not absent, f"{name_of(page)} names {absent}"


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_repository_leads_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|^\[[^]]+\]: (\S+)$", text, flags=re.M)
    for target in (a or b for a, b in targets):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links {target}"
        if anchor and file.suffix == ".md":
            assert anchor in headings(file), f"{name_of(page)} links {target}"
