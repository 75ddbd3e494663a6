"""The command line itself: fast, one clear line for what is wrong, and exit codes that a script can trust."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kfp_foundry.cli import app, main
from kfp_foundry.components.common import errors


def call(*words, code="from kfp_foundry.cli.main import main; import sys; sys.exit(main())", **environment):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env={**os.environ, **environment}, check=False)


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of the command `doctor`."""

    def put(function):
        monkeypatch.setitem(sys.modules, "kfp_foundry.cli.doctor", SimpleNamespace(doctor=function))

    return put


def test_help_names_every_command_and_imports_none_of_them():
    heavy = "('kfp', 'mlflow', 'polars', 'numpy', 'pydantic')"
    code = f"from kfp_foundry.cli.main import main; import sys; code = main(); print([n for n in {heavy} if n in sys.modules]); sys.exit(code)"
    done = call("--help", code=code)
    assert done.returncode == 0
    for entry in app.COMMANDS:
        assert entry.name in done.stdout
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("entry", app.COMMANDS, ids=lambda entry: entry.name)
def test_every_command_can_be_loaded_and_explains_itself(entry, capsys):
    assert main.main([entry.name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_without_a_word_the_help_is_shown(capsys):
    assert main.main([]) == 0
    assert "Usage" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys):
    from importlib.metadata import version

    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"kfp-foundry {version('kfp-foundry')}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["complie"], "Did you mean 'compile'"),
        (["--vers"], "--version"),
        (["lint"], "missing argument"),
        (["compile", "--chekc"], "--check"),
        (["docs", "--check", "more"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_where_to_read_on(words, message, capsys):
    assert main.main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "--help" in said.splitlines()[-1]


@pytest.mark.parametrize(("kind", "code"), [(errors.UserError, 1), (errors.PlatformError, 1), (errors.GateRefused, 3)])
def test_an_error_of_ours_is_one_line_and_its_exit_code(kind, code, command, capsys):
    def fails():
        raise kind("x is 3", where="here", remedy="give\n 2")

    command(fails)
    assert main.main(["doctor"]) == code
    assert capsys.readouterr().err == "error: here: x is 3; give 2\n"


def test_what_is_unexpected_is_one_line_and_the_traceback_is_kept(command, capsys, monkeypatch, tmp_path):
    def fails():
        raise ZeroDivisionError("no")

    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    command(fails)
    assert main.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "unexpected ZeroDivisionError: no" in said
    kept = tmp_path / "home" / "last-error.txt"
    assert str(kept) in said
    assert "in fails" in kept.read_text()


def test_where_nothing_can_be_kept_the_line_says_how_to_see_the_traceback(command, capsys, monkeypatch, tmp_path):
    def fails():
        raise ZeroDivisionError("no")

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "file"))
    command(fails)
    assert main.main(["doctor"]) == 1
    assert "kfp-foundry --debug doctor" in capsys.readouterr().err


def test_debug_gives_the_traceback(command):
    def fails():
        raise ZeroDivisionError("no")

    command(fails)
    with pytest.raises(ZeroDivisionError):
        main.main(["doctor", "--debug"])


def test_a_missing_extra_is_named(command, capsys):
    def fails():
        raise ModuleNotFoundError("No module named 'kfp.compiler'", name="kfp.compiler")

    command(fails)
    assert main.main(["doctor"]) == 1
    assert capsys.readouterr().err == "error: kfp-foundry: package kfp is not installed; pip install 'kfp-foundry[kfp]'\n"


def test_a_core_install_without_typer_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from kfp_foundry.cli.main import main; sys.exit(main(['list']))"
    done = call(code=code)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "kfp-foundry[cli]" in done.stderr


def test_an_interrupt_ends_with_130(command, capsys):
    def interrupted():
        signal.raise_signal(signal.SIGINT)

    command(interrupted)
    assert main.main(["doctor"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m kfp_foundry list --json | head -c 1"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "{"
    assert done.stderr == ""
