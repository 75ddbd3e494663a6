"""A contract that the user has: read from wherever it is, and held against the table."""

from collections.abc import Mapping

import fsspec

from kfp_foundry.components.common.contract import Contract, Role, Task
from kfp_foundry.components.common.errors import DataError, PlatformError, UserError, close_names
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.validation.infer_contract.profile import Profile
from kfp_foundry.components.validation.infer_contract.roles import Wishes
from kfp_foundry.components.validation.infer_contract.target import find_target

_MAX_BYTES = 10_000_000


def load(uri: str) -> Contract:
    """Reads a contract from a path, or from file://, http(s)://, s3:// or gs://.

    Raises:
        UserError: There is no such file, or it is no contract.
        PlatformError: The place cannot be reached, or its client is not installed.
    """
    where = f"contract {mask_address(uri)}"
    try:
        with fsspec.open(uri, "rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8")
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec says so of every failure of a web server
        if cause is not None and not isinstance(cause, FileNotFoundError) and getattr(cause, "status", 0) != 404:
            raise PlatformError(f"cannot be reached: {mask_address(str(cause))}", where=where, remedy="check the address and the network") from error
        raise UserError("there is no such file", where=where, remedy="check contract_uri") from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=where, remedy="give a YAML file") from error
    except ImportError as error:
        raise PlatformError(f"its client is not installed: {error}", where=where, remedy="pip install 'kfp-foundry[s3]' (or [gcs])") from error
    except ValueError as error:
        raise UserError(
            f"cannot be opened: {mask_address(str(error))}", where=where, remedy="give a path, file://, http(s)://, s3:// or gs:// address"
        ) from error
    except OSError as error:
        raise PlatformError(
            f"cannot be read: {mask_address(str(error))}", where=where, remedy="check the address, the network and the credentials"
        ) from error
    return Contract.parse(text, where=where)


def check_fits(contract: Contract, columns: list[str], wishes: Wishes, task: str, uri: str) -> None:
    """Refuses a contract that is not this table's, or that contradicts the parameters.

    Raises:
        DataError: A field that is not in the table; with the close names.
        UserError: A parameter says otherwise.
    """
    where = f"contract {mask_address(uri)}"
    for field in contract.fields:
        if field.role is not Role.IGNORE and field.name not in columns:
            raise DataError(f"field {field.name!r} is not a column of the table", where=where, remedy=close_names(field.name, columns))
    holders = {Role.TARGET: contract.target, Role.TIME: contract.time, Role.GROUP: contract.group, Role.WEIGHT: contract.weight}
    for name, role in wishes.roles():
        agreed = holders[role] if role in holders else next((f.name for f in contract.fields if f.name == name and f.role is role), None)
        if agreed != name:
            said = f"{agreed!r}" if role in holders and agreed else "none" if role in holders else "another"
            raise UserError(
                f"the parameters give {name!r} the role {role}, the contract says {said}",
                where=where,
                remedy="correct the contract, or leave the parameter empty",
            )
    if task != "auto" and contract.task != task:
        raise UserError(f"task is {task!r}, the contract says {contract.task or 'none'}", where=where, remedy="use task=auto or correct the contract")


def with_target(contract: Contract, columns: Mapping[str, Profile], positive: str) -> tuple[Contract, str]:
    """The contract with its positive label filled in, and why; refuses a target that cannot be learnt.

    Raises:
        UserError: The positive label is another than the contract's, or none of the target's.
        DataError: As `find_target`.
    """
    if contract.target is None or contract.task is None:
        return contract, "the contract names no target"
    if positive and contract.positive is not None and str(contract.positive).casefold() != positive.casefold():
        remedy = "correct the contract, or leave positive empty"
        raise UserError(f"positive is {positive!r}, the contract says {contract.positive!r}", where="contract", remedy=remedy)
    wanted = contract.positive if contract.task is Task.BINARY and contract.positive is not None else positive
    found = find_target(columns[contract.target], str(contract.task), wanted)
    return contract.model_copy(update={"positive": found.positive}), "as the contract says"
