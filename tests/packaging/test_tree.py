"""The tree keeps the rules of the architecture: packages, layers, components, imports."""

import ast
import fnmatch
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from kfp_foundry.catalog import components, docstrings

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {name: ROOT / folder for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()}
COMPONENTS = components.every()
TOOL = ("catalog", "cli", "compile", "docs", "doctor", "ir", "lint", "run")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


FILES = tracked()


def module_of(file: Path) -> str | None:
    """The name under which a file of the tree is imported; None for a file of no package."""
    for name, folder in sorted(FOLDERS.items(), key=lambda item: -len(item[1].parts)):
        if file.is_relative_to(folder):
            parts = file.relative_to(folder).with_suffix("").parts
            return ".".join([name, *parts]).removesuffix(".__init__")
    return None


SHIPPED = {file: module for file in FILES if (module := module_of(file))}
MODULES = {file: module for file, module in SHIPPED.items() if file.suffix == ".py"}
IMPORTS = {
    file: [
        (node.lineno, name)
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    for file in FILES
    if file.suffix == ".py"
}


def imports_where(files, wrong) -> list[str]:
    return [f"{file.relative_to(ROOT)}:{line}: {name}" for file in files for line, name in IMPORTS[file] if wrong(name)]


def test_the_list_of_packages_is_the_tree():
    there = {module for file, module in MODULES.items() if file.name == "__init__.py"}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    whole = "\n".join(f'    "{name}",' for name in sorted(there))
    assert len(listed) == len(set(listed))
    assert set(listed) == there, f"write into [tool.setuptools] of pyproject.toml:\npackages = [\n{whole}\n]"


def test_every_folder_with_code_is_a_package():
    bare = {file.parent for file in MODULES if not (file.parent / "__init__.py").exists()}
    assert bare == set()


def test_every_file_beside_the_code_is_shipped():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    left_out = [file for file in SHIPPED if file.suffix != ".py" and not any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns)]
    assert [str(file.relative_to(ROOT)) for file in left_out] == []


def test_every_package_is_typed():
    assert [name for name, folder in FOLDERS.items() if not (folder / "py.typed").exists()] == []


def test_folders_that_are_no_packages_have_no_init():
    # A folder `kserve` or `tests/kserve` with one would stand before the real SDK.
    bare = ("tests", "kserve", "katib", "manifests", "benchmarks")
    found = [file for file in FILES if file.name == "__init__.py" and file.relative_to(ROOT).parts[0] in bare and file not in MODULES]
    assert found == []


@pytest.mark.parametrize("file", [file for file in MODULES if file.name == "__init__.py"], ids=lambda file: MODULES[file])
def test_an_init_is_a_docstring_or_lazy(file):
    # In a task kfp hides its decorators: an __init__ that imports a component would fail the step.
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    assert not [node for node in tree.body if not isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.Assign | ast.If)]
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(node) for node in imported} <= {"import lazy_loader", "from typing import TYPE_CHECKING"}
    assert {ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If)} <= {"TYPE_CHECKING"}


def test_imports_are_absolute_and_by_the_packages_name():
    assert imports_where(IMPORTS, lambda name: name.startswith(".") or name.split(".")[0] in ("components", "pipelines", "src")) == []


def test_only_faces_pipelines_wiring_and_the_tool_import_kfp():
    may = [ROOT / "components" / "common" / "wiring.py", *(each.folder / "component.py" for each in COMPONENTS)]
    runtime = [file for file in MODULES if file.is_relative_to(ROOT / "components") or file.is_relative_to(ROOT / "kserve")]
    assert imports_where([file for file in runtime if file not in may], lambda name: name.split(".")[0] == "kfp") == []


def test_common_imports_no_component():
    common = [file for file in MODULES if file.is_relative_to(ROOT / "components" / "common")]
    allowed = "kfp_foundry.components.common"
    assert imports_where(common, lambda name: name.startswith("kfp_foundry.components.") and not f"{name}.".startswith(f"{allowed}.")) == []


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda each: each.name)
def test_a_component_imports_no_other(component):
    own = f"kfp_foundry.components.{component.area}.{component.name}"
    files = [file for file in MODULES if file.is_relative_to(component.folder)]

    def foreign(name):
        inside = name.startswith("kfp_foundry.components.")
        return inside and not any(f"{name}.".startswith(f"{home}.") for home in (own, "kfp_foundry.components.common"))

    assert imports_where(files, foreign) == []


def test_steps_and_server_do_not_import_the_tool():
    runtime = [file for file in MODULES if file.is_relative_to(ROOT / "components") or file.is_relative_to(ROOT / "kserve")]
    assert imports_where(runtime, lambda name: name.startswith("kfp_foundry.") and name.split(".")[1] in TOOL) == []


def test_the_tool_imports_no_kfp_interface():
    tool = [file for file in MODULES if file.is_relative_to(ROOT / "src")]
    assert imports_where(tool, lambda name: name.startswith("kfp_foundry.") and "component" in name.split(".")) == []


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda each: each.name)
def test_a_component_has_its_files(component):
    for name in ("__init__.py", "component.py", "core.py", "metadata.yaml", "README.md"):
        assert (component.folder / name).is_file(), name
    metadata = yaml.safe_load((component.folder / "metadata.yaml").read_text())
    assert set(metadata) == {"name", "area", "stability", "tags", "needs", "runs_on"}
    assert (metadata["name"], metadata["area"]) == (component.folder.name, component.folder.parent.name)
    assert metadata["stability"] in ("alpha", "beta", "stable")
    assert set(metadata["runs_on"]) <= {"local", "kubeflow"}


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda each: each.name)
def test_a_face_is_thin(component):
    function = components.interface(component.folder)
    tree = ast.parse((component.folder / "component.py").read_text())
    launches = ", task_config_passthroughs=passthroughs()"  # of a step that starts remote objects
    decorators = [ast.unparse(decorator).replace(launches, "") for decorator in function.decorator_list]
    assert decorators == ["dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)"]
    assert len(function.body) - 1 <= 5
    branches = (ast.If, ast.For, ast.While, ast.Try, ast.IfExp, ast.BoolOp, ast.Match)
    assert not [node for statement in function.body for node in ast.walk(statement) if isinstance(node, branches)]
    assert "__future__" not in [name for _, name in IMPORTS[component.folder / "component.py"]]
    hints = [ast.unparse(argument.annotation) for argument, _ in components.parameters_of(function)]
    assert not [hint for hint in hints if "|" in hint or "Literal" in hint]
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)] == [component.name]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda each: each.name)
def test_every_input_and_output_of_a_component_is_documented(component):
    function = components.interface(component.folder)
    doc = docstrings.parse(ast.get_docstring(function))
    names = {argument.arg for argument, _ in components.parameters_of(function)}
    assert doc.summary
    assert {name for name in names if not doc.args.get(name)} == set()
    assert set(doc.args) <= names
    assert {result.name for result in component.results if not result.doc} == set()


def test_the_core_is_a_step():
    for component in COMPONENTS:
        tree = ast.parse((component.folder / "core.py").read_text())
        runs = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
        assert [[ast.unparse(decorator) for decorator in run.decorator_list] for run in runs] == [["step"]], component.name


def test_the_version_is_the_same_everywhere():
    from kfp_foundry.components.common import images

    version = PROJECT["project"]["version"]
    assert importlib.metadata.version("kfp-foundry") == version
    assert version == images.VERSION
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert changes.partition("\n## ")[2].split()[0] == version


def test_runtime_modules_import_in_a_task_without_kfp():
    runtime = [module for file, module in MODULES.items() if module.startswith(("kfp_foundry.components", "kfp_foundry.server"))]
    names = sorted(name for name in runtime if not name.endswith((".component", ".__main__")))
    code = """
import importlib, sys
sys.modules["kfp"] = None
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
faces = [name for name in sys.modules if name.endswith(".component")]
print(*failed, *faces, sep="\\n")
sys.exit(bool(failed or faces))
"""
    environment = {"_KFP_RUNTIME": "true", "PATH": "/usr/bin:/bin", "HOME": "/tmp"}
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_real_kserve_is_imported_from_the_root_of_the_checkout():
    pytest.importorskip("kserve.errors")
    code = "import kserve; print(kserve.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).is_relative_to(ROOT / "kserve")


def test_the_extras_that_errors_and_doctor_name_exist():
    from kfp_foundry import doctor
    from kfp_foundry.cli import main

    extras = set(PROJECT["project"]["optional-dependencies"])
    assert {*main.EXTRAS.values(), *doctor.LOOKED_AT} <= extras
