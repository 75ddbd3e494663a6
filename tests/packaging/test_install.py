"""The wheel, `pip install .` and `pip install -e .` give the same package, whole, from any folder."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"src/kfp_foundry": "kfp_foundry", "components": "kfp_foundry/components", "pipelines": "kfp_foundry/pipelines"}
FOLDERS |= {"kserve/server": "kfp_foundry/server"}

# Imports every module and reads every data file that the code reads at run time.
CHECK = """
import importlib, importlib.resources, pkgutil, sys
roots = ["kfp_foundry", "kfp_foundry.components", "kfp_foundry.pipelines", "kfp_foundry.server"]
names = set(roots)
for root in roots:
    package = importlib.import_module(root)
    names |= {module.name for module in pkgutil.walk_packages(package.__path__, root + ".")}
for name in sorted(names - {name for name in names if name.endswith("__main__")}):
    importlib.import_module(name)
files = [root + ":py.typed" for root in roots] + sys.argv[1:]
absent = [file for file in files if not importlib.resources.files(file.split(":")[0]).joinpath(file.split(":")[1]).is_file()]
from kfp_foundry import components
from kfp_foundry.catalog import components as catalog
assert {each.name for each in catalog.every()} == set(dir(components)), dir(components)
for name in dir(components):
    getattr(components, name)
import kfp_foundry
print(kfp_foundry.__file__, len(names), absent)
sys.exit(bool(absent))
"""
DATA = ["kfp_foundry.pipelines.train_and_deploy:pipeline.yaml", "kfp_foundry.components:__init__.pyi"]
DATA += ["kfp_foundry.components.common.report:style.css", "kfp_foundry.components.common.report:page.html.j2"]
DATA += ["kfp_foundry.docs:component.md.j2", "kfp_foundry.components.training.train_model:metadata.yaml"]


def run(*words, cwd):
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout as git knows it: what is built here comes from nothing else."""
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    copy = tmp_path_factory.mktemp("checkout")
    for line in listed:
        if (ROOT / line).is_file():
            (copy / line).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / line, copy / line)
    return copy


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """The wheel, built from the source distribution."""
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, checkout, cwd=target)
    assert len(list(target.glob("*.tar.gz"))) == 1
    return next(target.glob("*.whl"))


@pytest.fixture
def environment(tmp_path):
    """A fresh environment that sees the dependencies of this one, but not its kfp-foundry."""
    folder = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=tmp_path)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def install(environment, *words, cwd):
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", *words, cwd=cwd)


def check(environment, tmp_path, home):
    empty = tmp_path / "empty"
    empty.mkdir()
    said = run(environment / "bin" / "python", "-c", CHECK, *DATA, cwd=empty)
    assert Path(said.split()[0]).is_relative_to(home), said
    assert run(environment / "bin" / "kfp-foundry", "--version", cwd=empty).startswith("kfp-foundry ")
    run(environment / "bin" / "kfp-foundry", "compile", "train_and_deploy", "--output", "out.yaml", cwd=empty)
    assert (empty / "out.yaml").read_bytes() == (ROOT / "pipelines" / "train_and_deploy" / "pipeline.yaml").read_bytes()


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(built):
    names = set(zipfile.ZipFile(built).namelist())
    assert {name.partition("/")[0] for name in names} == {"kfp_foundry", built.name.rsplit("-", 3)[0] + ".dist-info"}
    assert [name for name in names if "test" in Path(name).name or "conftest" in name] == []
    listed = [Path(line) for line in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines() if (ROOT / line).is_file()]
    for folder, package in FOLDERS.items():
        expected = {f"{package}/{file.relative_to(folder)}" for file in listed if file.is_relative_to(folder)}
        assert expected - names == set()


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(built, environment, tmp_path):
    install(environment, built, cwd=tmp_path)
    check(environment, tmp_path, environment)


@pytest.mark.slow
def test_an_install_of_the_folder_works_from_an_empty_folder(checkout, environment, tmp_path):
    install(environment, checkout, cwd=tmp_path)
    check(environment, tmp_path, environment)


@pytest.mark.slow
def test_an_editable_install_works_and_follows_the_checkout(checkout, environment, tmp_path):
    install(environment, "--editable", checkout, cwd=tmp_path)
    check(environment, tmp_path, checkout)
    (checkout / "src" / "kfp_foundry" / "added_later.py").write_text("HERE = 1\n")
    run(environment / "bin" / "python", "-c", "from kfp_foundry.added_later import HERE", cwd=tmp_path)
