"""What the Extensions Index's checks and reviewers ask of an extension, as far as it can be asked without the index."""

from __future__ import annotations

import ast
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("MedGenSynthesis", "MedGenSegmentation", "MedGenLandmarks")
SHIPPED = ("medgen", "MedGenLib", *MODULES)
LIMIT = 100 * 2**20  # bytes, of the whole repository
MODULE_LINES = 300
# Where a person reads what is passed or assigned.
READ_CALLS = {
    "QAction",
    "QCheckBox",
    "QLabel",
    "QPushButton",
    "QRadioButton",
    "QTableWidgetItem",
    "addItem",
    "appendPlainText",
    "confirmOkCancelDisplay",
    "confirmYesNoDisplay",
    "errorDisplay",
    "infoDisplay",
    "section",
    "setPlaceholderText",
    "setText",
    "setToolTip",
    "setWindowTitle",
    "text_label",
    "warningDisplay",
}
READ_ATTRIBUTES = {"text", "title", "toolTip", "helpText", "acknowledgementText", "placeholderText", "windowTitle"}
ERRORS = re.compile(r"(MedGenLib|Run|Boundary|Install|User)Error$")  # others are for developers


def metadata() -> dict[str, str]:
    """EXTENSION_… of the top CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "(.*)"\)$', text, re.MULTILINE))


def in_repository(url: str) -> Path:
    """The file of the checkout that an address names once the repository has its place."""
    home = metadata()["HOMEPAGE"]
    assert url.startswith(home + "/"), f"{url} does not lie under {home}"
    return ROOT / url.removeprefix(home + "/")


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG; fails where the file is none."""
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n"), path
    width, height = struct.unpack(">II", header[16:24])
    return width, height


def sources(folder: str) -> list[Path]:
    """The Python files of a folder."""
    return sorted((ROOT / folder).rglob("*.py"))


def test_icon_and_screenshots_are_images_of_this_repository() -> None:
    told = metadata()
    assert png_size(in_repository(told["ICONURL"])) == (128, 128)
    screenshots = told["SCREENSHOTURLS"].split()
    assert screenshots
    for url in screenshots:
        width, height = png_size(in_repository(url))
        assert width >= 400 and height >= 300, url


def test_the_description_says_what_it_does_for_whom_and_that_it_is_for_research() -> None:
    told = metadata()
    assert len(told["DESCRIPTION"].split()) >= 20
    assert "research" in told["DESCRIPTION"].lower() and "clinical" in told["DESCRIPTION"].lower()
    assert told["CONTRIBUTORS"] and told["DEPENDS"] == "PyTorch"
    for name, value in told.items():
        assert '"' not in value and ";" not in value and "\n" not in value, name


def test_the_readme_has_summary_picture_modules_tutorial_data_publications_licence_and_citation() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"!\[[^\]]+\]\([^)]+\.png\)", readme)
    for module in MODULES:
        assert module.replace("MedGen", "MedGen ") in readme, f"no sentence on {module}"
    assert len(re.findall(r"doi:10\.\d+", readme)) >= 3
    for word in ("Sample Data", "Licence", "How to cite", "research", "Install"):
        assert word in readme, word
    assert re.search(r"^1\. ", readme, re.MULTILINE), "no step-by-step tutorial"


def test_there_is_a_licence_and_the_repository_is_small_enough() -> None:
    assert (ROOT / "LICENSE").stat().st_size > 1000
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so what belongs to the repository is not known")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(file.stat().st_size for file in files if file.is_file()) < LIMIT
    assert [file for file in files if file.suffix.lower() in {".exe", ".dll", ".so", ".dylib", ".whl", ".pth"}] == []


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the last part of its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, node


def words_of(node: ast.AST) -> str:
    """All text literals inside a node."""
    return " ".join(part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and type(part.value) is str)


# The processes of one training, which torchrun starts, ask its store who failed first; a signal wakes a thread.
AMONG_THEMSELVES = {"ranks.py": {"socket"}, "jobs.py": {"socket"}}


def test_torch_is_never_installed_by_pip_and_nothing_is_fetched_or_sent() -> None:
    network = {"urllib", "requests", "http", "socket", "ftplib", "aiohttp", "urllib3", "huggingface_hub"}
    for path in [path for folder in SHIPPED for path in sources(folder)]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, call in calls(tree):
            if name in {"pip_install", "pip_ensure"}:
                given = " ".join(words_of(argument) for argument in [*call.args, *(k.value for k in call.keywords)])
                assert "torch" not in given.lower(), f"{path}: torch comes through the PyTorch extension"
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)} - {"urllib.parse"}
        imported = {name.split(".")[0] for name in imported} - AMONG_THEMSELVES.get(path.name, set())
        assert not imported & network, f"{path} can reach the network: {imported & network}"


def test_importing_a_module_file_does_nothing_but_define() -> None:
    for module in MODULES:
        tree = ast.parse((ROOT / module / f"{module}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            defines = isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Try))
            assert defines or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)), ast.dump(node)[:80]


def test_a_module_file_is_short_and_the_library_names_no_method() -> None:
    from medgen import catalog

    for module in MODULES:
        text = (ROOT / module / f"{module}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) < MODULE_LINES, module
    slugs = set(catalog.entries())
    assert slugs
    names = slugs | {slug.replace("-", "_") for slug in slugs}
    for path in sources("MedGenLib"):
        literals = words_of(ast.parse(path.read_text(encoding="utf-8")))
        found = {name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", literals)}
        # A docstring may show how a method is called.
        code = {name for name in found if name in literals_outside_docstrings(path)}
        assert not code, f"{path.name} names {code}: what is particular to a method stands in its file"


def literals_outside_docstrings(path: Path) -> str:
    """All text literals of a file that are no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = None
    return words_of(tree)


def untranslated(node: ast.AST) -> list[str]:
    """Literals with words, in a node, that do not go through `_()`."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"_", "translate"}:
        return []
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "format":
        return untranslated(node.func)
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) and re.search(r"[A-Za-z]{2}", node.value) else []
    if isinstance(node, (ast.JoinedStr, ast.BinOp, ast.IfExp, ast.Attribute, ast.BoolOp)):
        return [word for child in ast.iter_child_nodes(node) for word in untranslated(child)]
    return []


def spoken(tree: ast.AST) -> Iterator[ast.AST]:
    """What a person reads: arguments of widgets' calls and of errors, and what is assigned to their texts."""
    for name, call in calls(tree):
        if name in READ_CALLS or ERRORS.match(name):
            yield from call.args[:1] if name == "section" or ERRORS.match(name) else call.args
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr in READ_ATTRIBUTES:
                    yield node.value


MARKUP = re.compile(r"^\s*(<[^>]*>|&\w+;|\W)*\s*$")
NOT_SPOKEN = {"medgen", "MedGen", "utf-8", ".nii.gz"}


@pytest.mark.parametrize("folder", ["MedGenLib", *MODULES])
def test_every_string_that_a_person_reads_can_be_translated(folder: str) -> None:
    left = []
    for path in sources(folder):
        for node in spoken(ast.parse(path.read_text(encoding="utf-8"))):
            words = [word for word in untranslated(node) if not MARKUP.match(word) and word not in NOT_SPOKEN]
            left += [f"{path.relative_to(ROOT)}:{node.lineno}: {word!r}" for word in words]  # type: ignore[attr-defined]
    assert not left, "\n".join(left)


def test_the_check_of_translated_strings_sees_what_it_forbids() -> None:
    tree = ast.parse('button.text = "Press me"\nlabel = qt.QLabel(f"{n} cases")\nraise RunError("No file.")')
    assert [untranslated(node) for node in spoken(tree)] != []
    assert sorted(word for node in spoken(tree) for word in untranslated(node)) == [" cases", "No file.", "Press me"]
    fine = ast.parse('button.text = _("Press {name}").format(name="x")\nqt.QLabel(_("Cases"))')
    assert [word for node in spoken(fine) for word in untranslated(node)] == []
