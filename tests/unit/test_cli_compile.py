"""compile: the same bytes every time, drift is seen, images move, and an author's mistake is named with its line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kfp_foundry.catalog import pipelines
from kfp_foundry.cli.main import main
from kfp_foundry.compile import compiler, images
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.ir import Compiled

SOURCE = '''
from kfp import dsl

component = dsl.component(base_image="ghcr.io/kfp-foundry/kfp-foundry:0.1.0", install_kfp_package=False)


@component
def greet(name: str = "you") -> str:
    return f"Hello {name}"


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def other():
    pass


@dsl.pipeline(name="greetings", description="Greets.")
def greetings(name: str = "you"):
    """Greets.

    Args:
        name: Whom.
    """
    greet(name=name).set_env_variable("A", "b")
    other()
'''
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "greetings.py"
    file.write_text(SOURCE)
    return file


def image_of(text, step):
    return Compiled.parse(text, "test").executors[f"exec-{step}"]["container"]["image"]


def test_two_processes_write_the_same_bytes(source, tmp_path):
    written = []
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.yaml"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-m", "kfp_foundry", "compile", str(source), "-o", str(target)], check=True, env=environment)
        written.append(target.read_bytes())
    assert written[0] == written[1]


def test_a_users_file_is_compiled_beside_its_source(source, capsys):
    assert main(["compile", str(source)]) == 0
    assert Compiled.load(source.with_suffix(".yaml")).name == "greetings"
    assert capsys.readouterr().out.endswith("greetings.yaml: written\n")
    main(["compile", str(source)])
    assert capsys.readouterr().out.endswith("greetings.yaml: unchanged\n")


def test_check_writes_nothing_and_shows_the_difference(source, capsys):
    target = source.with_suffix(".yaml")
    assert main(["compile", str(source), "--check"]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not target.exists()
    main(["compile", str(source)])
    assert main(["compile", str(source), "--check"]) == 0
    target.write_text(target.read_text().replace("Hello", "Goodbye"))
    capsys.readouterr()
    assert main(["compile", str(source), "--check"]) == 1
    said = capsys.readouterr().err
    assert "Goodbye" in said
    assert "Hello" in said
    assert "write it with: kfp-foundry compile" in said


def test_a_source_that_compiles_itself_hides_no_difference(source, capsys):
    target = source.with_suffix(".yaml")
    source.write_text(f"{source.read_text()}\nfrom kfp import compiler\n\ncompiler.Compiler().compile(greetings, {str(target)!r})\n")
    assert main(["compile", str(source), "--check"]) == 1
    assert not target.exists()
    main(["compile", str(source)])
    target.write_text("old: 1\n")
    assert main(["compile", str(source), "--check"]) == 1
    assert target.read_text() == "old: 1\n"


def test_an_author_s_mistake_is_named_with_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from kfp import dsl\n\n@dsl.pipeline\ndef mine():\n    nope()\n")
    assert main(["compile", "mine.py"]) == 1
    assert capsys.readouterr().err.startswith("error: mine.py:5: NameError: name 'nope' is not defined")


@pytest.mark.parametrize("pipeline", pipelines.every(), ids=lambda pipeline: pipeline.name)
def test_the_committed_yaml_is_what_the_source_compiles_to(pipeline, capsys):
    assert main(["compile", pipeline.name, "--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("pipeline", pipelines.every(), ids=lambda pipeline: pipeline.name)
def test_all_our_steps_have_one_image_of_this_version_and_install_nothing(pipeline):
    from kfp_foundry.components.common.images import FOUNDRY

    containers = [executor["container"] for executor in Compiled.load(pipeline.yaml).executors.values() if "container" in executor]
    assert {container["image"] for container in containers} == {FOUNDRY}
    assert not [container for container in containers if "pip install" in " ".join(container["command"])]


@pytest.mark.parametrize("pipeline", pipelines.every(), ids=lambda pipeline: pipeline.name)
def test_every_parameter_of_our_pipelines_is_described_and_has_a_default(pipeline):
    definitions = Compiled.load(pipeline.yaml).parameters
    assert {name for name, spec in definitions.items() if not spec.get("description")} == set()
    assert {name for name, spec in definitions.items() if "defaultValue" not in spec} == set()


def test_a_rewrite_changes_images_and_nothing_else(source):
    text = compiler.compile_file(source)
    assert images.rewrite(text) == text
    moved = images.rewrite(text, registry="example.org:5000/team/")
    changed = [(a, b) for a, b in zip(text.splitlines(), moved.splitlines(), strict=True) if a != b]
    assert changed == [("        image: ghcr.io/kfp-foundry/kfp-foundry:0.1.0", "        image: example.org:5000/team/kfp-foundry:0.1.0")]


@pytest.mark.parametrize(
    ("pin", "step", "expected"),
    [
        (f"kfp-foundry=example.org/f@{DIGEST}", "greet", f"example.org/f@{DIGEST}"),
        (f"ghcr.io/kfp-foundry/kfp-foundry=example.org/f@{DIGEST}", "greet", f"example.org/f@{DIGEST}"),
        ("ghcr.io/kfp-foundry/kfp-foundry:0.1.0=example.org/f:2", "greet", "example.org/f:2"),
        (f"python=python@{DIGEST}", "other", f"python@{DIGEST}"),
    ],
)
def test_one_image_is_pinned_by_its_name_repository_or_reference(source, pin, step, expected, tmp_path):
    target = tmp_path / "release.yaml"
    assert main(["compile", str(source), "--image", pin, "-o", str(target)]) == 0
    assert image_of(target.read_text(), step) == expected


def test_platform_options_survive_a_rewrite():
    text = pipelines.find("train_and_deploy").yaml.read_text()
    moved = images.rewrite(text, registry="example.org/team")
    assert list(yaml.safe_load_all(moved))[1] == list(yaml.safe_load_all(text))[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "kfp-fondry=a:1", "-o", "out.yaml"], "no step uses an image 'kfp-fondry'; did you mean 'kfp-foundry'"),
        (["--image", "a:1", "-o", "out.yaml"], "'a:1' is not name=reference"),
        (["--image", "kfp-foundry=a@sha256:0123", "-o", "out.yaml"], "'a@sha256:0123' has no whole digest; write @sha256: and 64"),
        (["--registry", "example.org"], "say where to write with --output"),
    ],
)
def test_wrong_images_are_refused(source, words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["compile", str(source), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", r":1: ModuleNotFoundError: No module named 'no_such_module'; repair the file"),
        ("x = 1\ndef (", r":2: SyntaxError"),
        ("x = 1", "defines no pipeline; decorate a function"),
        (
            "from __future__ import annotations\nfrom kfp import dsl\n\n@dsl.component\ndef a(x: int):\n    pass",
            r":4: .*(schema_title|annotation|from __future__)",
        ),
        ("from kfp import dsl\n\n@dsl.component\ndef a(x: 'int | None' = None):\n    pass", r":3: TypeError"),
        ("from kfp import dsl\n\n@dsl.pipeline\ndef a():\n    pass", r":3: ValueError: Task is missing from pipeline.; call at least one component"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_an_authors_mistake_is_named_with_file_and_line(text, message, tmp_path):
    file = tmp_path / "mistake.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        compiler.compile_file(file)


def test_of_several_pipelines_one_is_chosen_by_name(source):
    source.write_text(SOURCE + '\n\n@dsl.pipeline(name="second")\ndef second():\n    other()\n')
    with pytest.raises(UserError, match=r"defines 2 pipelines: greetings, second; choose one, such as .*greetings.py:greetings"):
        compiler.compile_file(source)
    assert "name: second" in compiler.compile_file(source, "second")
    with pytest.raises(UserError, match="did you mean 'second'"):
        compiler.compile_file(source, "secnd")


def test_modules_beside_the_source_can_be_imported(source, tmp_path):
    (tmp_path / "shared_greetings.py").write_text(SOURCE)
    source.write_text("from kfp import dsl\nfrom shared_greetings import other\n\n@dsl.pipeline\ndef p():\n    other()\n")
    assert "name: p" in compiler.compile_file(source)
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train_and_deplo"], "did you mean 'train_and_deploy'"),
        (["absent.py"], "absent.py: no such file"),
        (["done.yaml"], "is compiled already"),
        (["a.py", "b.py", "-o", "one.yaml"], "one file for 2 pipelines"),
    ],
)
def test_what_cannot_be_compiled_is_refused(words, message, capsys):
    assert main(["compile", *words]) == 1
    assert message in capsys.readouterr().err
