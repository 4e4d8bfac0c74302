"""What Slicer's build, the Extensions Index and pip are given: complete, consistent, and importable once installed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import medgen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Utilities"))
import update_cmake_lists  # noqa: E402

MODULES = ("MedGenSynthesis", "MedGenSegmentation", "MedGenLandmarks")
SLICER_SIDE = ("MedGenLib", *MODULES)
INSTALLED = Path("lib/Slicer-5.12/qt-scripted-modules")
IN_SLICER = {"slicer", "vtk", "qt", "ctk", "SampleData", "MedGenLib", "medgen"}
CATEGORIES = {"Segmentation", "Image Synthesis", "Registration", "Analysis", "Pipelines", "Quantification"}

# What the genuine macro does with its arguments: fails on a missing file, keeps relative places, installs the folder.
STUB_MACROS = """
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(STUB "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(STUB_UNPARSED_ARGUMENTS OR NOT STUB_NAME)
    message(FATAL_ERROR "wrong arguments: ${ARGN}")
  endif()
  set(stub_place ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
  set(stub_install ${stub_place}/)
  if(STUB_WITH_SUBDIR)
    get_filename_component(stub_folder ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    set(stub_place ${stub_place}/${stub_folder})
    set(stub_install ${stub_place})
  endif()
  set(stub_copies)
  foreach(stub_file IN LISTS STUB_SCRIPTS STUB_RESOURCES)
    if(IS_ABSOLUTE ${stub_file} OR NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${stub_file})
      message(FATAL_ERROR "absolute or missing: ${stub_file}")
    endif()
    add_custom_command(
      OUTPUT ${stub_place}/${stub_file}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${stub_file}
      COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_CURRENT_SOURCE_DIR}/${stub_file} ${stub_place}/${stub_file})
    list(APPEND stub_copies ${stub_place}/${stub_file})
  endforeach()
  add_custom_target(Copy${STUB_NAME} ALL DEPENDS ${stub_copies})
  install(DIRECTORY ${stub_install} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR})
  if(STUB_WITH_GENERIC_TESTS)
    file(APPEND ${CMAKE_BINARY_DIR}/tests.txt "generic ${STUB_NAME}\\n")
  endif()
endmacro()
"""

GENUINE_MACROS = """
set(Slicer_USE_PYTHONQT ON)
set(BUILD_TESTING OFF)
set(CTK_CMAKE_DIR "{ctk}/CMake")
set(CMAKE_MODULE_PATH "{stubs}" "{slicer}/CMake" "{ctk}/CMake" ${{CMAKE_MODULE_PATH}})
set(PYTHONINTERP_FOUND ON)
set(PYTHONLIBS_FOUND ON)
set(PYTHON_EXECUTABLE "{python}")
set(PYTHON_LIBRARIES "{python}")
include(ctkMacroParseArguments)
include(ctkFunctionExtractOptimizedLibrary)
include(ctkMacroCompilePythonScript)
include(SlicerMacroBuildScriptedModule)
"""

COMMON = """
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
macro(slicer_add_python_unittest)
  cmake_parse_arguments(STUB_TEST "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  file(APPEND ${CMAKE_BINARY_DIR}/tests.txt "unittest ${STUB_TEST_SCRIPT}\\n")
endmacro()
"""

# Loads a module file as Slicer does: only the folder of the file is added to sys.path. What comes with Slicer is
# replaced by modules whose every attribute is an empty class; nothing of site-packages can be reached (-S -I).
LOAD_MODULE = """
import importlib.abc, importlib.machinery, importlib.util, pathlib, sys, types

class Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return make(name)
    def __call__(cls, *args, **kwargs):
        return args[0] if len(args) == 1 and callable(args[0]) else type.__call__(cls)

def make(name):
    return Anything(name, (), {})

class Module(types.ModuleType):
    __all__ = ["ScriptedLoadableModule", "ScriptedLoadableModuleWidget", "ScriptedLoadableModuleLogic",
               "ScriptedLoadableModuleTest"]
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = make(name)
        setattr(self, name, value)
        return value

class WithSlicer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"slicer", "vtk", "vtkmodules", "qt", "ctk", "SampleData", "numpy"}:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Module(spec.name)
    def exec_module(self, module):
        pass

sys.meta_path.append(WithSlicer())
file = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(file.parent))
spec = importlib.util.spec_from_file_location(file.stem, file)
module = importlib.util.module_from_spec(spec)
sys.modules[file.stem] = module
spec.loader.exec_module(module)
import MedGenLib, medgen.catalog
print(MedGenLib.__file__)
print(medgen.catalog.__file__)
print(len(medgen.catalog.entries()))
for ending in ("", "Widget", "Logic", "Test"):
    assert isinstance(getattr(module, file.stem + ending), type), ending
"""


def pyproject() -> dict[str, object]:
    """The [project] table."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]


def shipped_files() -> set[Path]:
    """What the install tree holds, relative to qt-scripted-modules."""
    files = set()
    for name in update_cmake_lists.FOLDERS:
        base = Path() if name in MODULES else Path(name)
        for entries in update_cmake_lists.shipped(ROOT / name):
            files |= {base / entry for entry in entries}
    return files


@pytest.mark.parametrize("name", update_cmake_lists.FOLDERS)
def test_every_file_of_a_folder_is_listed_for_the_build_and_nothing_else(name: str) -> None:
    folder = ROOT / name
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    assert update_cmake_lists.updated(folder) == text, "run python Utilities/update_cmake_lists.py"
    assert update_cmake_lists.strays(folder) == [], "neither script nor resource: does the extension need it?"
    listed = re.findall(r"^  (\S+\.\w+)$", text, re.MULTILINE)
    assert listed, "nothing is listed"
    assert not [entry for entry in listed if entry.startswith(("/", "Testing")) or "${" in entry]
    if name in MODULES:
        assert f"{name}.py" in listed and f"Resources/Icons/{name}.png" in listed


def test_a_file_that_nobody_listed_is_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    marks = f"{update_cmake_lists.FIRST}\n{update_cmake_lists.LAST}\n"
    (tmp_path / "CMakeLists.txt").write_text(marks)
    for file in ("a.py", "sub/b.py", "sub/c.json", "note.txt"):
        (tmp_path / file).write_text("")
    text = update_cmake_lists.updated(tmp_path)
    assert [line.strip() for line in text.splitlines() if line.startswith("  ")] == [
        "a.py",
        "sub/b.py",
        ")",
        "sub/c.json",
        ")",
    ]
    assert update_cmake_lists.strays(tmp_path) == ["note.txt"]


def test_pip_installs_the_resources_that_the_extension_has() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["medgen"]
    _, resources = update_cmake_lists.shipped(ROOT / "medgen")
    assert {"catalog.json", "casereport.html"} <= set(resources)
    assert [entry for entry in resources if not any(Path(entry).match(pattern) for pattern in patterns)] == []


def build_and_install(tmp_path: Path, macros: str) -> Path:
    """Configure, build and install the extension with given macros; the folder that Slicer would look into."""
    package = tmp_path / "slicer"
    package.mkdir()
    (package / "SlicerConfig.cmake").write_text(
        'set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")\n'
        'set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/Metadata.cmake")\n'
        'set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")\n'
    )
    (package / "UseSlicer.cmake").write_text('option(BUILD_TESTING "" ON)\n' + COMMON + macros)
    (package / "Metadata.cmake").write_text(
        "foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)\n"
        '  file(APPEND ${CMAKE_BINARY_DIR}/metadata.txt "${name}=${EXTENSION_${name}}\\n")\n'
        "endforeach()\n"
        'file(APPEND ${CMAKE_BINARY_DIR}/metadata.txt "PROJECT=${PROJECT_NAME}\\n")\n'
    )
    (package / "Nothing.cmake").write_text("")
    build, install = tmp_path / "build", tmp_path / "install"
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={package}", f"-DCMAKE_INSTALL_PREFIX={install}"],
        ["cmake", "--build", str(build)],
        ["cmake", "--install", str(build)],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return install / INSTALLED


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed extension, by macros that do what Slicer's do."""
    if not shutil.which("cmake"):
        pytest.skip("cmake is not on the PATH")
    if not (shutil.which("cc") and shutil.which("c++")):
        pytest.skip("cmake's project() looks for a compiler and there is none")
    return build_and_install(tmp_path_factory.mktemp("extension"), STUB_MACROS)


def test_the_build_installs_what_is_shipped_and_nothing_else(installed: Path) -> None:
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert found == shipped_files()
    modules = {path.stem for path in installed.glob("*.py")}
    assert modules == set(MODULES)  # Slicer takes every .py in this folder for a module


def test_the_build_knows_the_extension_and_its_tests(installed: Path) -> None:
    build = installed.parents[3] / "build"
    metadata = dict(line.split("=", 1) for line in (build / "metadata.txt").read_text().splitlines())
    assert metadata["PROJECT"] == "MedGen"
    assert metadata["DEPENDS"] == "PyTorch"
    assert ";" not in "".join(metadata.values())  # a CMake list would be cut there
    assert all(metadata[name].startswith("https://") for name in ("HOMEPAGE", "ICONURL", "SCREENSHOTURLS"))
    tests = (build / "tests.txt").read_text().splitlines()
    assert sorted(tests) == sorted([f"generic {m}" for m in MODULES] + [f"unittest {m}.py" for m in MODULES])


def load_module(file: Path) -> list[str]:
    """Load a module file in a bare Python; where MedGenLib and medgen came from, and how many methods there are."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", LOAD_MODULE, str(file)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


@pytest.mark.parametrize("name", MODULES)
def test_an_installed_module_finds_the_shared_code_with_only_its_own_folder_on_the_path(
    installed: Path, name: str
) -> None:
    library, backend, methods = load_module(installed / f"{name}.py")[:3]
    assert Path(library).parent == installed / "MedGenLib"
    assert Path(backend).parent == installed / "medgen"
    assert int(methods) >= 1  # catalog.json came along


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_a_checkout_finds_the_shared_code_beside_its_folder(name: str) -> None:
    library, backend, _ = load_module(ROOT / name / f"{name}.py")[:3]
    assert Path(library).parent == ROOT / "MedGenLib" and Path(backend).parent == ROOT / "medgen"


def test_slicers_own_macros_install_the_same(tmp_path: Path) -> None:
    slicer, ctk = os.environ.get("MEDGEN_SLICER_SOURCE"), os.environ.get("MEDGEN_CTK_SOURCE")
    if not slicer or not ctk:
        pytest.skip("MEDGEN_SLICER_SOURCE and MEDGEN_CTK_SOURCE name no source trees of Slicer and CTK")
    if not shutil.which("cmake"):
        pytest.skip("cmake is not on the PATH")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    # The genuine one needs Qt's translation tools.
    (stubs / "SlicerMacroTranslation.cmake").write_text("macro(SlicerMacroTranslation)\nendmacro()\n")
    macros = GENUINE_MACROS.format(slicer=slicer, ctk=ctk, stubs=stubs, python=sys.executable)
    place = build_and_install(tmp_path, macros)
    found = {path.relative_to(place) for path in place.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert found == shipped_files()
    for name in MODULES:
        assert Path(load_module(place / f"{name}.py")[0]).parent == place / "MedGenLib"


def test_the_catalog_entry_keeps_the_rules_of_the_extensions_index() -> None:
    raw = (ROOT / "MedGen.json").read_bytes()
    entry = json.loads(raw)
    assert b"\r" not in raw
    required, optional = (
        {"$schema", "category", "scm_url"},
        {
            "scm_revision",
            "scm_type",
            "build_dependencies",
            "build_subdirectory",
            "enabled",
            "tier",
            "dicom_support_rule",
        },
    )
    assert required <= set(entry) <= required | optional
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry["category"] in CATEGORIES
    assert re.fullmatch(r"https://\S+", entry["scm_url"])
    assert re.search(r"/Slicer\w+(\.git)?$", entry["scm_url"])  # the repository's name starts so, the extension's not
    assert entry["scm_type"] == "git" and entry["tier"] in range(1, 6)
    assert isinstance(entry["build_dependencies"], list)
    project = re.search(r"^project\((\w+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert project and project[1] == "MedGen" == (ROOT / "MedGen.json").stem


@pytest.mark.parametrize("path", ["MedGen.png", *(f"{m}/Resources/Icons/{m}.png" for m in MODULES)])
def test_icons_are_png_of_128_by_128(path: str) -> None:
    header = (ROOT / path).read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", header[16:24]) == (128, 128)


def test_pins_satisfy_every_requirement_and_the_foreign_package_slicer_is_not_among_them() -> None:
    project = pyproject()
    extras = project["optional-dependencies"]
    requirements = [Requirement(r) for r in [*project["dependencies"], *(r for e in extras.values() for r in e)]]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonical(name)] = version
    for requirement in requirements:
        if canonical(requirement.name) == "medgen":
            continue
        assert requirement.specifier.contains(pins[canonical(requirement.name)]), requirement
    assert "slicer" not in pins and "slicer" not in {canonical(r.name) for r in requirements}


def test_the_doctor_and_the_panel_ask_for_what_pip_is_told_to_install() -> None:
    from medgen import doctor

    floors = {r.name: str(r.specifier) for r in map(Requirement, pyproject()["dependencies"])}
    for name, floor in doctor.NEEDED.items():
        assert floors.pop(name) == f">={floor}", name
    assert set(floors) <= set(doctor.USEFUL)


def canonical(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party_at_file_scope(path: Path, allowed: set[str]) -> list[str]:
    """Imports that run when the file is loaded and are neither the standard library's nor allowed."""
    found: list[str] = []

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.extend(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.append((node.module or "").split(".")[0])
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(node.orelse)
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for field in ("body", "orelse", "finalbody", "handlers"):
                    visit(getattr(node, field, []))

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return [name for name in found if name not in sys.stdlib_module_names | allowed]


def test_nothing_outside_slicer_is_imported_when_a_module_file_is_loaded() -> None:
    for name in SLICER_SIDE:
        for path in sorted((ROOT / name).rglob("*.py")):
            allowed = IN_SLICER if name in MODULES else IN_SLICER | {"numpy"}  # numpy is part of Slicer
            assert third_party_at_file_scope(path, allowed) == [], path.relative_to(ROOT)


def test_the_floors_stand_on_each_other_in_one_direction() -> None:
    forbidden = {"medgen": {"slicer", "qt", "ctk", "vtk", "MedGenLib", *MODULES}, "MedGenLib": set(MODULES)}
    for folder, names in forbidden.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            used |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert not used & names, path.relative_to(ROOT)


def test_the_import_checks_see_what_they_forbid(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("try:\n    import torch\nexcept ImportError:\n    import os\ndef later():\n    import monai\n")
    assert third_party_at_file_scope(file, IN_SLICER) == ["torch"]


def test_licence_citation_and_version_agree() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {medgen.__version__}" in citation and "license: Apache-2.0" in citation
    assert re.search(r"^cff-version: 1\.2\.0$", citation, re.MULTILINE)
    assert pyproject()["license"] == "Apache-2.0"


def test_the_two_commands_of_the_readme_are_there_and_ci_runs_the_one_for_tests() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for script in ("demo.sh", "test.sh", ".ci/run", ".ci/slow", "Utilities/setup.sh"):
        path = ROOT / script
        assert os.access(path, os.X_OK), script
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0, script
    assert "./demo.sh" in readme and "./test.sh" in readme
    assert not re.findall(r"{[A-Z]+}", readme), "a figure is still to be filled in"
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
    assert "test.sh" in (ROOT / ".ci/run").read_text()
