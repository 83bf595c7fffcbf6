# SPDX-License-Identifier: Apache-2.0
"""What holds for the project as a whole: layout, licences, direction of imports."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("hw", "sw", "sim", "boards")
SOURCES = sorted(p for f in (*FOLDERS, "tests") for p in (ROOT / f).rglob("*.py"))
PACKAGES = {"sw": "bitloop", "hw": "bitloop.hw", "sim": "bitloop.sim", "boards": "bitloop.boards"}
MAY_IMPORT = {"hw": {"hw"}, "sw": {"hw", "sw"}, "sim": {"hw", "sw", "sim"}, "boards": set(FOLDERS)}
HARDWARE_DEFINITIONS = {"config", "fields", "isa", "registers"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[folder], *(part for part in rest if part != "__init__")])


def imports(path: Path):
    """(absolute name, name imported from it or None) of every import, also inside functions."""
    here = module_name(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from ((name, alias.name) for alias in node.names)


def folder_of(name: str, imported: str | None) -> str | None:
    """The project's folder that an import reaches, None for other libraries."""
    parts = [*name.split("."), *([imported] if imported else [])]
    if parts[0] != "bitloop":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ("hw", "sim", "boards") else "sw"


@pytest.mark.parametrize("path", [p for p in SOURCES if "tests" not in p.parts], ids=relative)
def test_imports_point_one_way(path):
    own = path.relative_to(ROOT).parts[0]
    # The command line sits on top; a session opens devices by name, and only when asked to.
    top = relative(path).startswith("sw/cli/") or relative(path) == "sw/session.py"
    for name, imported in imports(path):
        reached = folder_of(name, imported)
        if reached is None:
            continue
        assert reached in MAY_IMPORT[own] or (top and own == "sw"), f"{name} ({imported})"
        if own == "sw" and reached == "hw" and not top:
            parts = [*name.split("."), *([imported] if imported else [])]
            assert parts[2] in HARDWARE_DEFINITIONS, f"{name} ({imported})"


def test_every_package_is_listed_for_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        module_name(path) for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")
    }
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert {module_name(folder / "__init__.py") for folder in folders} == found
    assert set(settings["packages"]) == found


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_sources_begin_with_their_licence(path):
    assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")


def test_data_files_have_a_licence_line():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".cpp", ".h", ".v", ".vlt"):
                assert "SPDX-License-Identifier: Apache-2.0" in path.read_text().split("\n")[0]


def test_tests_mirror_the_folders():
    shared = ("benchmarks", "networks", "data", "test_project.py", "__pycache__")
    for path in (ROOT / "tests").iterdir():
        assert path.name in (*FOLDERS, *shared)


def test_modules_stay_small():
    lines = [len(p.read_text().splitlines()) for p in SOURCES if "tests" not in p.parts]
    assert sorted(lines)[len(lines) // 2] <= 200
