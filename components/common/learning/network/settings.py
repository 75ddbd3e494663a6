"""What decides a network and its training besides the rows: the parameters of `residual_mlp`, checked."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from kfp_foundry.components.common.errors import UserError, close_names

PRECISIONS = ("auto", "float32", "bfloat16")
COMPILES = ("auto", "off", "graph", "inductor")
SPEED = ("precision", "compile")  # decide how fast the same training runs, not which one it is


@dataclass(frozen=True)
class Settings:
    """The parameters of `residual_mlp`; what they say is also what a user may give in `params`.

    Args:
        epochs: Passes over the training rows, at most.
        batch_size: Rows per step, over all ranks together.
        learning_rate: The largest one; it rises over `warmup` and falls to 0 along a cosine.
        warmup: Share of all steps in which the learning rate rises, 0 to 1.
        weight_decay: Decoupled decay of the weights of linear layers (AdamW).
        width: Numbers that a block passes on.
        blocks: Residual blocks.
        expansion: Width inside a block, in units of `width`.
        dropout: Share of a block's inner numbers that a step leaves out.
        input_dropout: Share of the encoded inputs that a step leaves out.
        embedding_size: Numbers per category; 0 for a size that follows from the largest vocabulary.
        bins: Most intervals into which a column of numbers is cut.
        clip_norm: Largest norm of a gradient; 0 for no limit.
        patience: Epochs without a smaller validation loss after which training ends. `patience` in params decides where it is given
            (0: never); else `early_stopping_rounds=0` means never, and any other value the default of 5.
        precision: `float32`, `bfloat16` (matrix products only), or `auto`: bfloat16 on a GPU.
        compile: `graph` (one CUDA graph per step; on one GPU, elsewhere as `off`), `inductor` (torch.compile), `off`, or `auto`:
            `graph` where the GPU can.

    Example:
        >>> Settings.read({"epochs": 5}).epochs
        5
    """

    epochs: int = 20
    batch_size: int = 1024
    learning_rate: float = 0.001
    warmup: float = 0.1
    weight_decay: float = 0.1
    width: int = 128
    blocks: int = 2
    expansion: float = 1.0
    dropout: float = 0.3
    input_dropout: float = 0.1
    embedding_size: int = 0
    bins: int = 32
    clip_norm: float = 1.0
    patience: int = 5
    precision: str = "auto"
    compile: str = "auto"

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> "Settings":
        """The settings of a user's parameters; a word that is not given keeps its default.

        Raises:
            UserError: An unknown word, or a value outside what the word allows.
        """
        unknown = [name for name in params if name not in NAMES]
        if unknown:
            raise UserError(f"residual_mlp has no parameter {unknown[0]!r}", where="training", remedy=close_names(unknown[0], list(NAMES)))
        for name, value in params.items():
            _check(name, value)
        given: dict[str, Any] = {name: float(value) if name in _SHARES else value for name, value in params.items()}
        return cls(**given)

    def identity(self) -> dict[str, Any]:
        """What decides the trained network: all but how fast it runs."""
        return {name: value for name, value in asdict(self).items() if name not in SPEED}


NAMES = tuple(field.name for field in fields(Settings))

_COUNTS = {
    "epochs": (1, 100_000),
    "batch_size": (1, 100_000_000),
    "width": (1, 65_536),
    "blocks": (0, 1_000),
    "embedding_size": (0, 4_096),
    "bins": (1, 4_096),
    "patience": (0, 100_000),
}
# Lowest, highest, and whether these two belong to the range.
_SHARES = {
    "learning_rate": (0.0, math.inf, False, False),
    "warmup": (0.0, 1.0, True, True),
    "weight_decay": (0.0, math.inf, True, False),
    "expansion": (0.0, 64.0, False, True),
    "dropout": (0.0, 1.0, True, False),
    "input_dropout": (0.0, 1.0, True, False),
    "clip_norm": (0.0, math.inf, True, False),
}
_WORDS = {"precision": PRECISIONS, "compile": COMPILES}


def patient(params: Mapping[str, Any], early_stopping_rounds: int) -> dict[str, Any]:
    """The user's params with what the step's `early_stopping_rounds` says about a patience that they do not give."""
    return dict(params) if early_stopping_rounds else {"patience": 0, **params}


def _check(name: str, value: Any) -> None:
    if name in _WORDS and value not in _WORDS[name]:
        raise UserError(f"{name} is {value!r}", where="training", remedy=close_names(str(value), list(_WORDS[name])))
    if name in _COUNTS:
        low, high = _COUNTS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UserError(f"{name} is {value!r}", where="training", remedy=f"give a whole number from {low} to {high:,}")
    if name in _SHARES and not _is_within(value, *_SHARES[name]):
        raise UserError(f"{name} is {value!r}", where="training", remedy=f"give {_range(*_SHARES[name])}")


def _is_within(value: Any, low: float, high: float, with_low: bool, with_high: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return (value >= low if with_low else value > low) and (value <= high if with_high else value < high)


def _range(low: float, high: float, with_low: bool, with_high: bool) -> str:
    lower = f"{low:g} or more" if with_low else f"a number above {low:g}"
    if math.isinf(high):
        return lower
    return f"{lower}, {'at most' if with_high else 'below'} {high:g}"
