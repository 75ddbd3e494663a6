"""require_verdict: lets a run go on, or stops it with the gate, the checks and their values in one line."""

import pytest

from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.errors import GateRefused, IntegrityError
from kfp_foundry.components.common.gate import require
from kfp_foundry.components.validation.require_verdict import core

PASS = Check(name="rows", outcome="pass", limit="at least 1", value=5)
WARN = Check(name="origin: known values", outcome="warn", limit="EWR, JFK", value=2, message="2 values are outside what is allowed: EWR, JFK")
GAIN = Check(name="gain: auc", outcome="fail", limit="at least 0.02", value=0.018391476353173952, message="AUC: 0.79 against 0.77.")
FAIL = Check(name="age: range", outcome="fail", limit="0 to 120", value="-1 to 90")


def verdict(*checks):
    return Verdict(gate="validate_table", checks=list(checks))


@pytest.mark.parametrize(("checks", "allow_warn", "outcome"), [((), True, "pass"), ((PASS,), False, "pass"), ((PASS, WARN), True, "warn")])
def test_a_good_verdict_passes(checks, allow_warn, outcome):
    assert require(verdict(*checks), allow_warn) == outcome


@pytest.mark.parametrize(
    ("checks", "allow_warn", "message"),
    [
        ((PASS, WARN, FAIL), True, r"validate_table: 1 check failed: age: range \(found -1 to 90, allowed 0 to 120\); see its report"),
        ((PASS, WARN), False, r"1 check warned: origin: known values: 2 values are outside what is allowed: EWR, JFK; .*allow_warn=true"),
        ((GAIN,), True, r"gain: auc \(found 0.01839, allowed at least 0.02\): AUC: 0.79 against 0.77; see its report"),
        ([FAIL] * 5, True, r"5 checks failed: .*; and 2 more; see its report"),
    ],
)
def test_a_bad_verdict_stops_the_run(checks, allow_warn, message):
    with pytest.raises(GateRefused, match=message) as caught:
        require(verdict(*checks), allow_warn)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_run_reads_the_artifact(artifact):
    written = artifact("verdict")
    verdict(PASS, WARN).write(written)
    assert core.run(written, allow_warn=True) == "warn"


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_a_broken_artifact_is_named(artifact, tmp_path, text):
    (tmp_path / "verdict").write_text(text)
    with pytest.raises(IntegrityError, match="verdict: not a readable verdict; run the gate again"):
        core.run(artifact("verdict"), allow_warn=True)
