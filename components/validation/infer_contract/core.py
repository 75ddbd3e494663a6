"""A table's contract: found from its rows, or loaded and held against them."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import polars as pl

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract, DatasetRules, FieldSpec, Role
from kfp_foundry.components.common.endpoint_record import check_name
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.files import write_text
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.common.step import step
from kfp_foundry.components.validation.infer_contract import limits, loaded, page
from kfp_foundry.components.validation.infer_contract.profile import Profile, profile
from kfp_foundry.components.validation.infer_contract.roles import Assigned, Wishes, assign, check_wishes
from kfp_foundry.components.validation.infer_contract.target import find_target

log = logging.getLogger(__name__)

MAX_NAME = 50  # characters; a Kubernetes name has 63, and revisions add to it


@dataclass(frozen=True)
class Agreed:
    """A contract, and how it came about.

    Args:
        contract: The contract.
        columns: What the table holds.
        why: Column to the reason for its role.
        task_why: How the task was found.
    """

    contract: Contract
    columns: Mapping[str, Profile]
    why: Mapping[str, str]
    task_why: str


@step
def run(
    dataset: Artifact,
    contract: Artifact,
    report: Artifact,
    target: str,
    name: str,
    contract_uri: str,
    task: str,
    positive: str,
    time_column: str,
    group_column: str,
    weight_column: str,
    id_columns: Sequence[str],
    ignore_columns: Sequence[str],
    sensitive_columns: Sequence[str],
) -> tuple[str, str, str]:
    """Reads the table, writes its contract and a report, and returns task, target and name."""
    if name:
        check_name(name, where="infer_contract")
    folder = DatasetFolder.open(dataset)
    wishes = Wishes(target, time_column, group_column, weight_column, id_columns, ignore_columns, sensitive_columns)
    source = table_name(folder.facts.source)
    agreed = load(folder.scan(), contract_uri, wishes, task, positive) if contract_uri else infer(folder.scan(), wishes, task, positive, source)
    write_text(contract.path, agreed.contract.dump())
    page.write(agreed, folder, contract_uri, report.path)
    for column, why in agreed.why.items():
        log.info("%s: %s, %s", column, agreed.contract.field(column).role, why)
    if agreed.contract.target:
        log.info("target %s: %s, %s", agreed.contract.target, agreed.contract.task, agreed.task_why)
    contract.metadata.update(
        task=str(agreed.contract.task or ""),
        target=agreed.contract.target or "",
        features=len(agreed.contract.features),
        source=mask_address(contract_uri) or "inferred",
    )
    return str(agreed.contract.task or ""), agreed.contract.target or "", name or model_name(source, agreed.contract.target or "")


def infer(table: pl.LazyFrame, wishes: Wishes, task: str = "auto", positive: str = "", name: str = "table") -> Agreed:
    """Finds a table's contract.

    Args:
        table: All rows; passed over twice, streamed.
        wishes: What the user says of the columns; without a target the contract has no task.
        task: `binary`, `multiclass`, `regression`, or `auto`: found from the target's values.
        positive: The positive label of a binary target; empty: found.
        name: The contract's name.

    Raises:
        UserError: A column that is not there or cannot have its role, an unknown task or label.
        DataError: A target that cannot be learnt, or a table in which no column is left as a feature.

    Example:
        >>> infer(pl.scan_parquet("flights.parquet"), Wishes(target="late")).contract.task
        <Task.BINARY: 'binary'>
    """
    names = table.collect_schema().names()
    check_wishes(wishes, names)
    if not wishes.target and (task != "auto" or positive):
        raise UserError("target is empty, though a task or a positive label is given", where="target", remedy="name the column to predict")
    columns = profile(table, [wishes.target] if wishes.target else [])
    target = find_target(columns[wishes.target], task, positive) if wishes.target else None
    roles = assign(columns, wishes)
    fields = [
        FieldSpec(
            name=column.name,
            type=column.kind,
            role=roles[column.name].role,
            description=_sentence(roles[column.name].why),
            constraints=limits.constraints(column, roles[column.name].role, target),
            limits=limits.limits(column, roles[column.name].role, target),
        )
        for column in columns.values()
    ]
    rows = next(iter(columns.values())).rows
    contract = Contract(
        name=name,
        task=target.task if target else None,
        positive=target.positive if target else None,
        fields=fields,
        dataset=DatasetRules(min_rows=max(1, rows // 100)),
    )
    if target and not contract.features:
        raise DataError(
            f"no column is left to predict {wishes.target!r} from",
            where=name,
            remedy=f"give another column, or repair one: {_others(roles, wishes.target)}",
        )
    why = {column: assigned.why for column, assigned in roles.items() if assigned.why}
    return Agreed(contract, columns, why, target.why if target else "no target was named")


def load(table: pl.LazyFrame, uri: str, wishes: Wishes, task: str = "auto", positive: str = "") -> Agreed:
    """Loads a contract and holds it against the table.

    Args:
        table: All rows.
        uri: A path, or an address that fsspec knows.
        wishes: Parameters, which must not contradict the contract.
        task: The same.
        positive: The same.

    Raises:
        UserError: The file is missing or no contract, or a parameter contradicts it.
        DataError: A field is not in the table, or its target cannot be learnt.
    """
    contract = loaded.load(uri)
    loaded.check_fits(contract, table.collect_schema().names(), wishes, task, uri)
    columns = profile(table, [contract.target] if contract.target else [])
    contract, why = loaded.with_target(contract, columns, positive)
    return Agreed(contract, columns, {field.name: "as the contract says" for field in contract.fields if field.role is not Role.FEATURE}, why)


def table_name(source: str) -> str:
    """A short name for a table, from where it comes from.

    Example:
        >>> table_name("s3://bucket/exports/Customers 2024.csv.gz")
        'customers-2024'
    """
    path = re.sub(r"^\w+://", "", source).split("?")[0].split("#")[0]
    for part in reversed(PurePosixPath(path).parts):
        slug = _slug(part.split(".")[0])
        if slug:
            return slug
    return "table"


def model_name(table: str, target: str) -> str:
    """The name of a model, fit for a registry and for Kubernetes.

    Example:
        >>> model_name("customers", "Churn")
        'customers-churn'
    """
    slug = _slug(f"{table}-{target}" if target else table)
    return slug if slug[:1].isalpha() else f"model-{slug}".rstrip("-")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")[:MAX_NAME].rstrip("-")


def _others(roles: Mapping[str, Assigned], target: str, most: int = 3) -> str:
    """The columns that are no features, and why."""
    others = [f"{name!r} is {assigned.role} ({assigned.why})" for name, assigned in roles.items() if name != target]
    more = f", and {len(others) - most} more" if len(others) > most else ""
    return ", ".join(others[:most]) + more if others else "the table has no other"


def _sentence(why: str) -> str | None:
    return why[:1].upper() + why[1:] + "." if why else None
