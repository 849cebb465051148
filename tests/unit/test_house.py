"""The house stays as it is drawn: few rooms, short files, arrows downward, no circle, nothing written twice."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("drift", "components", "pipelines")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALIKE = 6
"""So many lines that stand in two places are one idea with two homes."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_library_has_at_most_sixteen_rooms():
    assert len({path.name for path in (ROOT / "drift").iterdir()} - {"__pycache__"}) <= 16


def test_every_folder_of_code_is_a_package_or_the_contracts_would_not_see_it():
    assert {name_of(path.parent) for path in FILES if not (path.parent / "__init__.py").exists()} == set()


def test_no_file_has_more_than_400_lines():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_has_more_than_50_lines():
    functions = [
        (f"{name_of(path)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1)
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    assert len(functions) > 1000
    assert {name: length for name, length in functions if length > 50} == {}


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports anywhere in it, in its functions and for its types too."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def wing(module: str) -> str:
    """`drift.weights` of `drift.weights.delta.deltas`; the doors and the wiring are a wing each."""
    return ".".join(module.split(".")[:2]) if module.startswith("drift.") else module.partition(".")[0]


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """One circle of the arrows, or nothing."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle_not_even_inside_functions():
    assert "pipelines.local.run" in imports()["drift.cli.chain"], "which its function imports"
    assert circle(imports()) == []


def test_no_wings_import_each_other_in_a_circle():
    arrows = defaultdict(set)
    for module, imported in imports().items():
        arrows[wing(module)] |= {wing(one) for one in imported} - {wing(module)}
    assert arrows["drift.weights"] and arrows["components"]
    assert circle(arrows) == []


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports`, as `make check` runs it, in another tree."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code whose imports are held to the contracts, and keeps them."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    held = lint(copy)
    assert held.returncode == 0, held.stdout
    return copy


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("drift/ground/errors.py", "import drift.weights.delta", "drift.ground is not allowed to import drift.weights"),
        ("drift/prior/bias.py", "def later(): import drift.training.fit", "drift.prior is not allowed to import"),
        ("drift/gate/rules.py", "import pipelines.check", "drift is not allowed to import pipelines"),
        ("components/gate.py", "import pipelines.check", "components is not allowed to import pipelines"),
    ],
)
def test_an_upward_import_breaks_the_contracts(tree: Path, path: str, line: str, broken: str):
    module, before = tree / path, (tree / path).read_text(encoding="utf-8")
    module.write_text(f"{before}\n{line}\n", encoding="utf-8")
    try:
        found = lint(tree)
    finally:
        module.write_text(before, encoding="utf-8")
    assert found.returncode == 1
    assert broken in " ".join(found.stdout.split())


def is_folder(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def is_module(module: str) -> bool:
    return is_folder(module) or (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_the_projects_own_code_takes_names_from_modules_never_from_a_face():
    taken = [
        f"{name_of(path)}:{node.lineno} {node.module}.{name.name}"
        for path in FILES
        if path.name != "__main__.py"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("drift.")
        if is_folder(node.module)
        for name in node.names
        if not is_module(f"{node.module}.{name.name}")
    ]
    assert taken == []


Line = tuple[int, str]
"""Where it stands, and its text with white space folded."""


def telling(path: Path) -> list[Line]:
    """The lines that say something: not blank, no comment, no import, not punctuation alone."""
    imported = {
        number
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    folded = [(number, " ".join(text.split())) for number, text in lines if number not in imported]
    return [(number, text) for number, text in folded if re.search(r"\w", text) and not text.startswith("#")]


def runs(lines: list[Line]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every run of `ALIKE` lines, and where it begins."""
    for first in range(len(lines) - ALIKE + 1):
        yield lines[first][0], tuple(text for _, text in lines[first : first + ALIKE])


def written_twice(files: list[Path]) -> list[list[str]]:
    """The places where the same run of lines begins."""
    places = defaultdict(list)
    for path in files:
        for number, run in runs(telling(path)):
            places[run].append(f"{path.name}:{number}")
    return [where for where in places.values() if len(where) > 1]


def test_no_two_places_in_the_library_hold_the_same_six_lines():
    assert written_twice([path for path in FILES if path.is_relative_to(ROOT / "drift")]) == []


def test_lines_written_twice_are_found_whatever_stands_between_them(tmp_path: Path):
    body = ["a = 1", "b = 2", "c = [", "    3,", "]", "d = 4", "e = 5"]
    (tmp_path / "one.py").write_text("\n".join(body))
    (tmp_path / "two.py").write_text("import re\n\nz = 0\n# why\n" + "\n\n".join(body))
    (tmp_path / "three.py").write_text("\n".join(body[:-1]))
    assert written_twice([tmp_path / name for name in ("one.py", "two.py", "three.py")]) == [["one.py:1", "two.py:5"]]


def test_no_two_files_of_tests_that_are_collected_together_have_one_name():
    together = ("unit", "pipelines", "components")  # without __init__.py, pytest knows files by name alone
    names = Counter(path.name for folder in together for path in (ROOT / "tests" / folder).rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
