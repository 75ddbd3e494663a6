"""How a step ends: one clear last line inside a task, the plain exception everywhere else."""

import os
import subprocess
import sys

import pytest

from kfp_foundry.components.common.errors import GateRefused, UserError, close_names
from kfp_foundry.components.common.step import step

TASK = """
import os; os.environ["_KFP_RUNTIME"] = "true"
from kfp_foundry.components.common.errors import *
from kfp_foundry.components.common.step import step

@step
def run():
    raise {error}

run()
"""


def end_of_task(error: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", TASK.format(error=error)], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("UserError('x is 3', where='t.csv', remedy='give 2')", 1, "error: t.csv: x is 3; give 2"),
        (
            "GateRefused('age: 3 rows below 0', where='validate_table', remedy='mend the rows')",
            3,
            "error: validate_table: age: 3 rows below 0; mend the rows",
        ),
        ("KeyError('x')", 1, "error: __main__: unexpected KeyError: 'x'; the traceback is above, please report it"),
        ("UserError('two\\nlines', where='w', remedy='r')", 1, "error: w: two lines; r"),
    ],
)
def test_the_last_line_of_a_failed_task_says_it_all(error, code, line):
    assert end_of_task(error) == (code, line)


@pytest.mark.parametrize(
    ("component", "make", "line"),
    [
        ("compare_models", "'auc', 0.0, {'f1': 'a'}, [], 0.0, 'fail'", "compare_models: max_loss.f1: Input should be a valid number"),
        ("evaluate_model", "'f2', 1.0, 1.0, 0.0, 0.0", "evaluate_model: threshold is 'f2'; give f1"),
    ],
)
def test_a_wrong_rule_ends_a_task_as_every_other_mistake_does(component, make, line):
    code = f"from kfp_foundry.components.evaluation.{component}.core import make_rule; make_rule({make})"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "_KFP_RUNTIME": "true"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {line}")


def test_outside_a_task_errors_pass_through():
    @step
    def run() -> None:
        raise GateRefused("no", where="gate", remedy="mend it")

    with pytest.raises(GateRefused, match="gate: no; mend it"):
        run()


def test_an_error_reads_as_place_value_and_remedy():
    assert str(UserError("target 'Chrun' is not a column", where="t.csv", remedy="did you mean 'Churn'?")) == (
        "t.csv: target 'Chrun' is not a column; did you mean 'Churn'?"
    )


@pytest.mark.parametrize(
    ("name", "known", "remedy"),
    [
        ("Chrun", ["Churn", "Age"], "did you mean 'Churn'?"),
        ("CHURN", ["Churn", "Age"], "did you mean 'Churn'?"),
        ("acc", ["auc", "accuracy"], "did you mean 'accuracy' or 'auc'?"),
        ("bayes", ["cmaes", "bayesianoptimization"], "did you mean 'bayesianoptimization' or 'cmaes'?"),
        ("AGE", ["Agegroup", "Age"], "did you mean 'Age' or 'Agegroup'?"),
        ("zzz", ["Churn", "Age"], "choose one of: Churn, Age"),
        ("zzz", [], "choose one of: "),
    ],
)
def test_a_wrong_name_is_answered_with_the_close_ones(name, known, remedy):
    assert close_names(name, known) == remedy
