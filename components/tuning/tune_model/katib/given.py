"""What all trials of a search have in common; a trial of Katib's finds it in its environment.

Only the values that are searched over are arguments: Katib's webhook joins a trial's words with spaces for a shell, and an
address or a JSON text would not survive that.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.fit import Options
from kfp_foundry.components.tuning.tune_model.search import Search

MODULE = "kfp_foundry.components.tuning.tune_model.trial"  # what a trial runs
SAMPLE = "sample://"
PREFIX = "KFP_FOUNDRY_TRIAL_"
NEEDED = ("parameters", "metric", "direction", "additional_metrics", "early_stopping")  # what a trial must know of the search


@dataclass(frozen=True)
class Given:
    """The data, the training and the search.

    Args:
        train: Address of the Dataset to fit on; `sample://flights` for the sample, which is then split by time.
        validation: Address of the Dataset to measure on; empty with a sample.
        contract: Address of the data contract, or the contract itself, which has more than one line.
        options: Fields of `fit.Options`; `params` are those that every trial has.
        search: The search, which says the types of the arguments and the metric.
        folds: Folds of a cross-validation over the training rows; 0 for measuring on the validation rows.
        method: How the split was made, for the folds; `auto` for what the contract suggests.
    """

    train: str
    validation: str
    contract: str
    options: Mapping[str, Any]
    search: Search
    folds: int = 0
    method: str = "auto"

    def contract_text(self, read: Callable[[str], bytes]) -> str:
        """The contract, read from its address if it is not here already.

        Args:
            read: Gives the content of an address.
        """
        return self.contract if "\n" in self.contract else read(self.contract).decode()

    def environment(self) -> dict[str, str]:
        """What a trial needs of it, as environment variables; `read` is the inverse."""
        search = self.search.model_dump(mode="json", exclude_defaults=True, include=set(NEEDED))
        wanted = {
            "TRAIN": self.train,
            "VALIDATION": self.validation,
            "CONTRACT": self.contract,
            "OPTIONS": json.dumps(dict(self.options), sort_keys=True, ensure_ascii=False),
            "SEARCH": json.dumps(search, ensure_ascii=False),
            "FOLDS": str(self.folds or ""),
            "METHOD": self.method if self.folds else "",
        }
        return {PREFIX + name: value for name, value in wanted.items() if value}

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Given":
        """What the environment of a trial says.

        Raises:
            UserError: A variable is missing or holds something else.
        """
        options = _json(environ, "OPTIONS")
        known = {field.name for field in fields(Options)}
        strange = sorted(set(options) - known)
        if strange:
            raise UserError(f"unknown option {strange[0]!r}", where=f"{PREFIX}OPTIONS", remedy=f"use the words {', '.join(sorted(known))}")
        folds = environ.get(f"{PREFIX}FOLDS") or "0"
        if not folds.isdigit():
            raise UserError(f"folds is {folds!r}", where=f"{PREFIX}FOLDS", remedy="give a whole number")
        return cls(
            train=_variable(environ, "TRAIN"),
            validation=environ.get(f"{PREFIX}VALIDATION", ""),
            contract=_variable(environ, "CONTRACT"),
            options=options,
            search=Search.read(_json(environ, "SEARCH"), where=f"{PREFIX}SEARCH"),
            folds=int(folds),
            method=environ.get(f"{PREFIX}METHOD") or "auto",
        )


def _variable(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(PREFIX + name, "")
    if not value:
        raise UserError("the variable is not set", where=PREFIX + name, remedy="start the trial as an Experiment of katib/ does")
    return value


def _json(environ: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        found = json.loads(_variable(environ, name))
    except ValueError as error:
        raise UserError(f"no JSON: {error}", where=PREFIX + name, remedy="repair it") from error
    if not isinstance(found, dict):
        raise UserError(f"{found!r} is no mapping", where=PREFIX + name, remedy="give names with values")
    return found
