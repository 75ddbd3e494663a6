"""Verifying an endpoint: the served predictions are those of the batch path, wrong rows are refused, and how fast it answers."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.contract import Contract, Task, Type
from kfp_foundry.components.common.errors import DataError, PlatformError, UserError
from kfp_foundry.components.common.inference import Client, Reply, curl, emptiest_row, json_rows, tensors
from kfp_foundry.components.common.report.page import Report
from kfp_foundry.components.common.step import step
from kfp_foundry.components.deployment.verify_endpoint import sample

GATE = "verify_endpoint"
MAX_ROWS = 10_000
BATCH = 100  # rows per request in the batch checks
WARM_UP = 5  # first answers, which are not timed
SINGLES_SECONDS = 20.0  # the single-row check ends after that, whatever is left
CONNECT_SECONDS = 10.0
EXAMPLES = 5

log = logging.getLogger(__name__)

Read = Callable[[Mapping[str, Any]], pl.DataFrame]


@dataclass
class Findings:
    """What was asked and found."""

    verdict: Verdict
    milliseconds: list[float] = field(default_factory=list)
    rows: Mapping[str, int] = field(default_factory=dict)
    command: str = ""

    def percentile(self, share: float) -> float:
        """The smallest time that at least this share of the answers kept to; 0 when none was timed."""
        ordered = sorted(self.milliseconds)
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3) if ordered else 0.0


@step
def run(
    endpoint: Artifact, model: Artifact, test: Artifact, verdict: Artifact, report: Artifact, rows: int, tolerance: float, max_p99_ms: float
) -> tuple[str]:
    """Reads the artifacts, asks the endpoint, writes verdict and report, and returns the outcome."""
    _check_parameters(rows, tolerance, max_p99_ms)
    at = Endpoint.read(endpoint)
    if at.traffic == 0:
        note = at.note or "nothing was deployed"
        findings = Findings(Verdict(gate=GATE, checks=[Check(name="deployed", outcome="pass", message=note)], reason=note))
    else:
        findings = verify(at, ModelFolder.open(model), DatasetFolder.open(test).scan(), rows, tolerance, max_p99_ms)
    findings.verdict.write(verdict)
    verdict.metadata.update(p50_ms=findings.percentile(0.5), p99_ms=findings.percentile(0.99))
    write_page(at, findings, report.path)
    log.info("%s: %s", findings.verdict.outcome, findings.verdict.reason)
    return (findings.verdict.outcome,)


def verify(at: Endpoint, model: ModelFolder, test: pl.LazyFrame, rows: int = 200, tolerance: float = 1e-9, max_p99_ms: float = 0.0) -> Findings:
    """Asks an endpoint about rows and compares its answers with `ModelFolder.predict`.

    Args:
        at: Where the model answers.
        model: The model that should answer there.
        test: Rows to ask about.
        rows: Rows of the test set to send.
        tolerance: Largest difference of a number; relative for one above 1.
        max_p99_ms: Slowest allowed 99th percentile, in milliseconds; 0: only reported.

    Returns:
        The verdict and the times. An endpoint that does not answer is a failed check, not an error.

    Raises:
        DataError: The test set lacks a column, or has no row that the contract allows.
    """
    frame, kinds = sample.choose(test, model.contract, rows)
    if frame.is_empty():
        raise DataError("no row has all required columns", where="test rows", remedy="check the contract's required columns")
    expected = model.predict(frame, threshold=at.threshold)
    findings = Findings(Verdict(gate=GATE), rows=dict(kinds.value_counts(sort=True).iter_rows()))
    findings.command = curl(at.predict_url, json_rows(frame.head(1)))
    add = findings.verdict.checks.append
    try:
        with Client(at.url, at.name, probe=True) as client:
            _connect(client)
            add(_served_model(client, model))
            comparison = Comparison(model, expected, at.threshold, tolerance)
            singles, findings.milliseconds = _singles(client, frame, comparison)
            add(singles)
            add(_batches(client, frame, comparison, "V1, in batches", lambda part: client.v1(json_rows(part)), comparison.read_v1))
            add(_batches(client, frame, comparison, "V2, in batches", lambda part: client.v2(tensors(part, model.contract)), comparison.read_v2))
            findings.verdict.checks += _refusals(client, model.contract)
            add(_speed(findings, max_p99_ms))
    except PlatformError as error:
        add(Check(name="answers", outcome="fail", limit="every request", message=str(error)))
    findings.verdict.reason = _reason(findings)
    return findings


class Comparison:
    """Holds answers against the batch path's predictions."""

    def __init__(self, model: ModelFolder, expected: pl.DataFrame, threshold: float | None, tolerance: float) -> None:
        self.expected = expected
        self.tolerance = tolerance
        self._task = model.task
        self._labels = model.labels
        self._threshold = 0.5 if threshold is None else threshold

    def read_v1(self, body: Mapping[str, Any]) -> pl.DataFrame:
        """A V1 answer in the columns of `ModelFolder.predict`."""
        rows = body["predictions"]
        if self._task is Task.MULTICLASS:
            rows = [{"prediction": row["prediction"]} | {f"probability_{label}": p for label, p in row["probabilities"].items()} for row in rows]
        return pl.DataFrame(rows, schema=self.expected.schema)

    def read_v2(self, body: Mapping[str, Any]) -> pl.DataFrame:
        """A V2 answer in the columns of `ModelFolder.predict`."""
        columns = {tensor["name"]: tensor["data"] for tensor in body["outputs"]}
        return pl.DataFrame(columns, schema_overrides=self.expected.schema).select(self.expected.columns)

    def check(self, name: str, answered: pl.DataFrame) -> Check:
        """Compares the first rows; as many as were answered."""
        expected = self.expected.head(answered.height)
        distance = self._distance(expected, answered)
        changed = self._changed(expected, answered)
        largest = float(distance.max() or 0.0)  # type: ignore[arg-type]
        wrong = (distance > self.tolerance) | changed
        fine = not wrong.any()
        return Check(
            name=name,
            outcome="pass" if fine else "fail",
            limit=f"difference {self.tolerance:g}, equal labels",
            value=largest,
            message=f"{answered.height:,} rows, {wrong.sum():,} differ, {changed.sum():,} of them in their label",
            examples=[
                {"row": i, "expected": str(expected.row(i, named=True)), "served": str(answered.row(i, named=True))}
                for i in wrong.arg_true().head(EXAMPLES).to_list()
            ],
        )

    @staticmethod
    def _distance(expected: pl.DataFrame, answered: pl.DataFrame) -> pl.Series:
        numbers = [name for name, dtype in expected.schema.items() if dtype.is_float()]
        each = [
            (expected[name] - answered[name]).abs() / pl.select(pl.max_horizontal(pl.lit(1.0), expected[name].abs())).to_series() for name in numbers
        ]
        whole = pl.DataFrame({str(i): series for i, series in enumerate(each)}).max_horizontal() if each else pl.zeros(expected.height, eager=True)
        return whole.fill_nan(math.inf).fill_null(math.inf)

    def _changed(self, expected: pl.DataFrame, answered: pl.DataFrame) -> pl.Series:
        """Whose label differs although the probabilities do not leave it open."""
        if self._task is Task.REGRESSION:
            return pl.repeat(False, expected.height, eager=True)
        differs = expected["prediction"].ne_missing(answered["prediction"])
        if self._task is Task.BINARY:
            open_ = (expected["probability"] - self._threshold).abs() <= self.tolerance
            return differs & ~open_
        chances = expected.select(f"probability_{label}" for label in self._labels)
        gap = chances.max_horizontal() - _at(chances, answered["prediction"], [str(label) for label in self._labels])
        return differs & (gap > self.tolerance)


def _at(chances: pl.DataFrame, labels: pl.Series, known: list[str]) -> pl.Series:
    rows = chances.rows()
    places = {label: i for i, label in enumerate(known)}
    values = [row[places[str(label)]] if str(label) in places else -1.0 for row, label in zip(rows, labels.to_list(), strict=True)]
    return pl.Series(values, dtype=pl.Float64)


def _check_parameters(rows: int, tolerance: float, max_p99_ms: float) -> None:
    for name, value, fine, remedy in (
        ("rows", rows, 1 <= rows <= MAX_ROWS, f"give 1 to {MAX_ROWS}"),
        ("tolerance", tolerance, tolerance >= 0, "give 0 or more"),
        ("max_p99_ms", max_p99_ms, max_p99_ms >= 0, "give milliseconds, or 0 to only report"),
    ):
        if not fine:
            raise UserError(f"{name} is {value}", where=GATE, remedy=remedy)


def _connect(client: Client) -> None:
    """Waits while the server starts to listen; anything but a refused connection is judged at once."""
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            client.get(f"/v2/models/{client.name}/ready")
            return
        except PlatformError as error:
            if not isinstance(error.__cause__, ConnectionRefusedError) or time.monotonic() > until:
                raise
            time.sleep(0.1)


def _served_model(client: Client, model: ModelFolder) -> Check:
    reply = client.get(f"/v2/models/{client.name}")
    served = str((reply.body.get("parameters") or {}).get("digest", reply.error or "unknown"))
    fine = served == model.digest
    message = "the endpoint serves the model of this run" if fine else "the endpoint serves another model"
    return Check(name="model", outcome="pass" if fine else "fail", limit=model.digest[:19], value=served[:19], message=message)


def _singles(client: Client, frame: pl.DataFrame, comparison: Comparison) -> tuple[Check, list[float]]:
    """Each row in a request of its own, one after the other."""
    raw = json_rows(frame)
    for row in raw[:WARM_UP]:
        client.v1([row])
    answers: list[pl.DataFrame] = []
    times: list[float] = []
    until = time.monotonic() + SINGLES_SECONDS
    for row in raw:
        reply = client.v1([row])
        if reply.status != 200:
            return _refused("V1, one by one", reply), times
        answers.append(comparison.read_v1(reply.body))
        times.append(reply.seconds * 1000)
        if time.monotonic() > until:
            break
    return comparison.check("V1, one by one", pl.concat(answers)), times


def _batches(client: Client, frame: pl.DataFrame, comparison: Comparison, name: str, ask: Callable[[pl.DataFrame], Reply], read: Read) -> Check:
    answers: list[pl.DataFrame] = []
    for part in frame.iter_slices(BATCH):
        reply = ask(part)
        if reply.status != 200:
            return _refused(name, reply)
        answers.append(read(reply.body))
    return comparison.check(name, pl.concat(answers))


def _refused(name: str, reply: Reply) -> Check:
    return Check(name=name, outcome="fail", limit="HTTP 200", value=reply.status, message=f"a good row was refused: {reply.error}")


def _refusals(client: Client, contract: Contract) -> Iterator[Check]:
    """Rows that break the contract are the caller's fault: 400, with the column's name."""
    good = emptiest_row(contract)
    required = next((f.name for f in contract.feature_fields if f.constraints.required), None)
    if required:
        others = {name: value for name, value in good.items() if name != required} or dict.fromkeys(set(contract.features[:2]) - {required})
        yield _refusal("refuses a row without a required column", client.v1([others or {required: None}]), required)
    typed = next((f.name for f in contract.feature_fields if f.type is not Type.STRING), None)
    if typed:
        yield _refusal("refuses a value of a wrong type", client.v1([good | {typed: "wrong on purpose"}]), typed)
    yield _refusal("refuses a request without rows", client.v1([]), "instances")


def _refusal(name: str, reply: Reply, word: str) -> Check:
    fine = reply.status == 400 and word in reply.error
    return Check(
        name=name,
        outcome="pass" if fine else "fail",
        limit=f"HTTP 400 that names {word!r}",
        value=reply.status,
        message=reply.error or "the request was answered",
    )


def _speed(findings: Findings, max_p99_ms: float) -> Check:
    p99 = findings.percentile(0.99)
    fine = not max_p99_ms or p99 <= max_p99_ms
    limit = f"{max_p99_ms:g} ms" if max_p99_ms else "only reported"
    message = f"{len(findings.milliseconds)} single-row requests, one after the other"
    return Check(name="99th percentile, ms", outcome="pass" if fine else "fail", limit=limit, value=p99, message=message)


def _reason(findings: Findings) -> str:
    failed = findings.verdict.failed()
    if failed:
        return f"{len(failed)} of {len(findings.verdict.checks)} checks failed: {', '.join(check.name for check in failed)}"
    return (
        f"{sum(findings.rows.values()):,} rows over HTTP have the predictions of the batch path; half are answered in {findings.percentile(0.5):g} ms"
    )


def write_page(at: Endpoint, findings: Findings, path: str) -> None:
    """Writes the report."""
    verdict = findings.verdict
    report = Report("Endpoint", f"{at.name}, {at.url}" if at.url else at.name).verdict(verdict.outcome, verdict.reason)
    if findings.milliseconds:
        report.facts({"Rows": sum(findings.rows.values()), "Median, ms": findings.percentile(0.5), "99th percentile, ms": findings.percentile(0.99)})
    checks = [{"check": c.name, "outcome": c.outcome, "limit": c.limit, "value": c.value, "note": c.message} for c in verdict.checks]
    report.section("Checks").table(checks)
    examples = [{"check": check.name} | example for check in verdict.checks for example in check.examples]
    if examples:
        report.section("Rows that differ").table(examples)
    if findings.milliseconds:
        shares = [("50 %", 0.5), ("90 %", 0.9), ("95 %", 0.95), ("99 %", 0.99), ("slowest", 1.0)]
        report.section("Time to answer", "Single rows over V1, one after the other, on one connection, seen by the caller.")
        report.table([{"share of the answers": name, "at most, ms": findings.percentile(share)} for name, share in shares], bars=["at most, ms"])
        report.section("What was sent").table([{"rows": kind, "count": count} for kind, count in findings.rows.items()])
    if findings.command:
        report.section("Ask it").code(findings.command)
    report.save(path)
