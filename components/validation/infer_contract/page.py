"""The report of a contract: what is predicted, what each column is for and why, and the contract itself."""

from typing import TYPE_CHECKING

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Role, Task
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.common.report.page import Report
from kfp_foundry.components.validation.infer_contract.profile import Profile

if TYPE_CHECKING:
    from kfp_foundry.components.validation.infer_contract.core import Agreed

CLASSES_SHOWN = 20


def write(agreed: "Agreed", folder: DatasetFolder, uri: str, path: str) -> None:
    """Writes the HTML report.

    Args:
        agreed: The contract and how it came about.
        folder: The table.
        uri: Where the contract was loaded from; empty when it was inferred.
        path: The file to write.
    """
    contract = agreed.contract
    report = Report("Data contract", f"{folder.facts.source}, {human(folder.facts.rows)} rows")
    tiles: dict[str, object] = {"Rows": folder.facts.rows, "Columns": folder.facts.columns, "Features": len(contract.features)}
    if contract.target:
        tiles |= {"Target": contract.target, "Task": str(contract.task)}
    report.facts(tiles)
    report.text(f"Loaded from {mask_address(uri)}." if uri else "Inferred from the table. Commit it, edit it, and give it back as contract_uri.")
    if contract.target:
        _target(report, agreed, agreed.columns[contract.target])
    report.section("Columns", "What each one is for; later steps read it from here.")
    report.table([_row(agreed, field.name, field.role) for field in contract.fields if field.name in agreed.columns], bars=["missing %"], limit=1000)
    report.section("Contract").code(contract.dump(), "contract.yaml")
    report.save(path)


def _target(report: Report, agreed: "Agreed", column: Profile) -> None:
    report.section("Target", f"{column.name}: {agreed.contract.task}, because {agreed.task_why}.")
    if agreed.contract.task is Task.REGRESSION:
        report.facts({"Smallest": column.least, "Mean": column.mean, "Largest": column.most, "Missing": column.missing})
        return
    shown = [
        {"class": str(value), "rows": rows, "share %": round(100 * rows / max(column.present, 1), 2)}
        for value, rows in list(column.counts.items())[:CLASSES_SHOWN]
    ]
    report.table(shown, caption=f"{human(column.distinct)} classes, {human(column.missing)} rows without one", bars=["share %"])


def _row(agreed: "Agreed", name: str, role: Role) -> dict[str, object]:
    column = agreed.columns[name]
    return {
        "column": name,
        "role": str(role),
        "type": str(column.kind),
        "missing %": round(100 * column.missing_share, 2),
        "different": column.distinct,
        "smallest": column.least,
        "mean": column.mean,
        "largest": column.most,
        "why": agreed.why.get(name, ""),
    }
