"""The data contract: one YAML file that answers "what is this table?".

Fields speak the words of the Table Schema standard (https://specs.frictionlessdata.io/table-schema/): `name`, `type`,
`constraints`. To these a contract adds `role` (what a column is for), `limits` (statistics that must hold), row rules and
dataset rules. Every step reads roles from it, so no step takes a list of column names.
"""

import datetime as dt
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, Self

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.row_rules import check_rule

SCHEMA_VERSION: Final = 1
_LINE_MARKS = "\x85\u2028\u2029\ufeff"  # PyYAML writes them as they are, and reads them back as line breaks

Scalar = bool | int | float | str


class Role(StrEnum):
    """What a column is for."""

    TARGET = "target"
    FEATURE = "feature"
    ID = "id"
    TIME = "time"
    GROUP = "group"
    WEIGHT = "weight"
    SENSITIVE = "sensitive"
    IGNORE = "ignore"


class Type(StrEnum):
    """The types of a field, in the words of the Table Schema standard."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    DATETIME = "datetime"
    TIME = "time"
    ANY = "any"  # lists, structs, binary: only for a column that is ignored


class Task(StrEnum):
    """What is predicted."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Constraints(_Part):
    """What every single value must satisfy."""

    required: bool = Field(False, description="No value may be missing.")
    unique: bool = Field(False, description="No value may stand twice.")
    minimum: int | float | str | None = Field(None, description="Smallest value allowed; an ISO text for dates.")
    maximum: int | float | str | None = Field(None, description="Largest value allowed; an ISO text for dates.")
    enum: list[Scalar] | None = Field(None, description="The only values allowed.")
    pattern: str | None = Field(None, description="Regular expression that the whole text must match.")


class Limits(_Part):
    """What the column as a whole must satisfy."""

    max_missing: float | None = Field(None, ge=0, le=1, description="Largest share of missing values.")
    min_distinct: int | None = Field(None, ge=0, description="Smallest number of distinct values.")
    max_distinct: int | None = Field(None, ge=0, description="Largest number of distinct values.")
    known_values: list[Scalar] | None = Field(
        None, description="Values seen so far. Another one is a warning and never stops a run: models take unseen categories."
    )
    usual_range: tuple[int | float | str, int | float | str] | None = Field(
        None, description="Range of the values seen so far, with some slack; ISO texts for dates. A value outside is a warning."
    )
    mean: tuple[float, float] | None = Field(None, description="Range that the mean must fall in.")
    median: tuple[float, float] | None = Field(None, description="Range that the median must fall in.")


class FieldSpec(_Part):
    """One column."""

    name: str = Field(description="The column's name, exactly as in the table.")
    type: Type = Field(description="The column's type.")
    role: Role = Field(Role.FEATURE, description="What the column is for.")
    format: str | None = Field(None, description="How dates are written, in strftime words, when the source holds them as text.")
    description: str | None = Field(None, description="For people.")
    constraints: Constraints = Field(default_factory=Constraints)
    limits: Limits = Field(default_factory=Limits)
    severity: str = Field("fail", pattern="^(warn|fail)$", description="What a broken statistical limit means: warn or fail.")

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        low, high = self.constraints.minimum, self.constraints.maximum
        if self.type is Type.ANY and self.role is not Role.IGNORE:
            raise ValueError(f"field {self.name!r}: type any cannot be used as {self.role}; give it the role ignore")
        if self.constraints.pattern is not None and self.type is not Type.STRING:
            raise ValueError(f"field {self.name!r}: pattern is for type string, not {self.type}")
        for name, value in (("minimum", low), ("maximum", high), *(("usual_range", value) for value in self.limits.usual_range or ())):
            if value is not None:
                bound(value, self.type, f"field {self.name!r}: {name}")
        for name, pair in (("mean", self.limits.mean), ("median", self.limits.median)):
            if pair is not None and self.type not in (Type.INTEGER, Type.NUMBER, Type.BOOLEAN):
                raise ValueError(f"field {self.name!r}: {name} is for numbers, not {self.type}")
        return self


_MOMENTS: dict[Type, Callable[[str], dt.date | dt.datetime | dt.time]] = {
    Type.DATE: dt.date.fromisoformat,
    Type.DATETIME: dt.datetime.fromisoformat,
    Type.TIME: dt.time.fromisoformat,
}


def bound(value: float | str, kind: Type, where: str) -> float | dt.date | dt.datetime | dt.time:
    """A minimum or maximum as a value of its field's type.

    Raises:
        ValueError: It is not of that type, or the type has no order.
    """
    if kind in _MOMENTS:
        try:
            return _MOMENTS[kind](str(value))
        except ValueError as error:
            raise ValueError(f"{where} {value!r} is not an ISO {kind}") from error
    if kind not in (Type.INTEGER, Type.NUMBER):
        raise ValueError(f"{where} is for numbers and dates, not {kind}")
    if isinstance(value, str):
        raise ValueError(f"{where} {value!r} is not a number")
    return value


class RowRule(_Part):
    """A condition that must hold in every row, such as `dep_time <= arr_time`; a missing value satisfies it.

    The language is described in `kfp_foundry.components.common.row_rules`.
    """

    name: str
    rule: str = Field(description="Comparison over column names; `and`, `or`, `not`, `+ - * /` and brackets are allowed.")
    max_failing: float = Field(0.0, ge=0, le=1, description="Share of rows that may break it.")


class DatasetRules(_Part):
    """What the table as a whole must satisfy."""

    min_rows: int = Field(1, ge=0)
    max_rows: int | None = Field(None, ge=0)
    key: list[str] | None = Field(None, description="Columns that together identify a row.")
    max_age_days: float | None = Field(None, gt=0, description="Largest age of the newest value in the time column.")
    allow_extra_columns: bool = Field(True, description="Whether columns that the contract does not name are allowed.")


class Contract(_Part):
    """A data contract.

    Example:
        >>> contract = Contract(fields=[FieldSpec(name="age", type="integer"), FieldSpec(name="churn", type="boolean", role="target")], task="binary")
        >>> contract.target, contract.features
        ('churn', ['age'])
    """

    version: Literal[1] = Field(SCHEMA_VERSION, description="Of the words that a contract may use, not of your contract.")
    name: str = "table"
    task: Task | None = Field(None, description="binary, multiclass or regression; empty for a table without a target.")
    positive: Scalar | None = Field(None, description="For a binary target: the label whose probability is predicted.")
    fields: list[FieldSpec]
    rows: list[RowRule] = Field(default_factory=list)
    dataset: DatasetRules = Field(default_factory=DatasetRules)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [field.name for field in self.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"fields named twice: {', '.join(twice)}")
        for role in (Role.TARGET, Role.TIME, Role.GROUP, Role.WEIGHT):
            holders = [field.name for field in self.fields if field.role is role]
            if len(holders) > 1:
                raise ValueError(f"only one field can have the role {role}, these have it: {', '.join(holders)}")
        if (self.task is None) != (self.target is None):
            raise ValueError("task and a field with the role target go together: give both or neither")
        for name in self.dataset.key or []:
            if name not in names:
                raise ValueError(f"dataset.key names {name!r}, which is no field; {close_names(name, names)}")
        types = {field.name: str(field.type) for field in self.fields}
        for rule in self.rows:
            try:
                check_rule(rule.rule, types)
            except UserError as error:
                raise ValueError(f"rows: {error}") from error
        return self

    @classmethod
    def load(cls, path: str | Path) -> "Contract":
        """Reads a contract file.

        Raises:
            UserError: The file is missing, is not YAML, or holds unknown or ill-typed words; the message names the place.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=f"contract {path}", remedy="check the path") from error
        return cls.parse(text, where=f"contract {path}")

    @classmethod
    def parse(cls, text: str, where: str = "contract") -> "Contract":
        """Reads a contract from YAML text; raises `UserError` as `load` does."""
        try:
            return cls.model_validate(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UserError(f"not valid YAML: {error}", where=where, remedy="repair the file") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise UserError(
                f"{place}: {reason}" if place else reason, where=where, remedy="see docs/contract.schema.json for the words allowed"
            ) from error

    def dump(self) -> str:
        """The contract as YAML, without what equals its default; the same contract gives the same text."""
        record = {"version": self.version} | self.model_dump(mode="json", exclude_defaults=True)
        text = _yaml(record, allow_unicode=True)
        return _yaml(record, allow_unicode=False) if any(mark in text for mark in _LINE_MARKS) else text

    def save(self, path: str | Path) -> None:
        """Writes `dump()` to a file."""
        Path(path).write_text(self.dump(), encoding="utf-8")

    def field(self, name: str) -> FieldSpec:
        """The field of that name.

        Raises:
            UserError: There is none; the message says the close names.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise UserError(f"no field {name!r}", where="contract", remedy=close_names(name, self.names))

    def with_role(self, name: str, role: str) -> "Contract":
        """A copy in which that field has that role."""
        self.field(name)
        fields = [f.model_copy(update={"role": Role(role)}) if f.name == name else f for f in self.fields]
        return Contract.model_validate(self.model_copy(update={"fields": fields}).model_dump())

    def _holder(self, role: Role) -> str | None:
        return next((field.name for field in self.fields if field.role is role), None)

    @property
    def names(self) -> list[str]:
        """All column names, in order."""
        return [field.name for field in self.fields]

    @property
    def target(self) -> str | None:
        """The column to predict."""
        return self._holder(Role.TARGET)

    @property
    def time(self) -> str | None:
        """The column that orders rows in time."""
        return self._holder(Role.TIME)

    @property
    def group(self) -> str | None:
        """The column whose equal values must stay together in a split."""
        return self._holder(Role.GROUP)

    @property
    def weight(self) -> str | None:
        """The column of sample weights."""
        return self._holder(Role.WEIGHT)

    @property
    def ids(self) -> list[str]:
        """The columns that identify rows."""
        return [field.name for field in self.fields if field.role is Role.ID]

    @property
    def features(self) -> list[str]:
        """The columns that a model may use, in order; a sensitive column is one of the features only by its role `feature`."""
        return [field.name for field in self.fields if field.role is Role.FEATURE]

    @property
    def feature_fields(self) -> list[FieldSpec]:
        """The fields of `features`."""
        return [field for field in self.fields if field.role is Role.FEATURE]

    @property
    def is_classification(self) -> bool:
        """Whether the target is a class."""
        return self.task in (Task.BINARY, Task.MULTICLASS)


def _yaml(record: dict[str, Any], allow_unicode: bool) -> str:
    # Innermost lists and mappings stand on one line each: `constraints: {required: true, minimum: 0}`.
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=allow_unicode, width=120, default_flow_style=None)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a contract file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Contract.model_json_schema()}


POLARS_TYPES: dict[Type, pl.DataType] = {
    Type.STRING: pl.String(),
    Type.INTEGER: pl.Int64(),
    Type.NUMBER: pl.Float64(),
    Type.BOOLEAN: pl.Boolean(),
    Type.DATE: pl.Date(),
    Type.DATETIME: pl.Datetime("us"),
    Type.TIME: pl.Time(),
}


def type_of(dtype: pl.DataType) -> Type | None:
    """The field type of a Polars column type; None for nested and binary ones."""
    if dtype == pl.Boolean:
        return Type.BOOLEAN
    if dtype.is_integer():
        return Type.INTEGER
    if dtype.is_float() or dtype.is_decimal():
        return Type.NUMBER
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return Type.STRING
    if dtype == pl.Date:
        return Type.DATE
    if isinstance(dtype, pl.Datetime):
        return Type.DATETIME
    if dtype == pl.Time:
        return Type.TIME
    return None
