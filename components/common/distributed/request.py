"""What a rank is told: one command line, the same on this machine, in a TrainJob and in a PyTorchJob."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NoReturn, Self

from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.learning.fit import Options

WORKER = "kfp_foundry.components.common.distributed.ranks.worker"
FOLDER_VARIABLE = "KFP_FOUNDRY_RANKS_FOLDER"  # where a rank leaves its error, its stack, and at last that all is done
NODE_VARIABLE = "KFP_FOUNDRY_NODE"  # the process that a rank must not outlive, where torchrun starts it
DONE = "done"
ADDRESSES = ("train", "validation", "contract", "checkpoints", "output")


@dataclass(frozen=True)
class Request:
    """A training on ranks.

    Args:
        train: Address of the Dataset folder to fit on; of any kind that `common.store` reads.
        validation: Address of the Dataset folder for early stopping, calibration and metrics.
        contract: Address of the data contract.
        checkpoints: Folder in which a run that was killed finds where it was.
        output: Folder that rank 0 writes: the model, its metrics and its page.
        options: The training's parameters.
        strategy: `auto`, `ddp` or `fsdp`.
        device: `auto`, `cpu` or `cuda`.
        module: Python module with the user's own `train`; empty for our network.
        module_args: What that module finds in `context.args`.

    Example:
        >>> command = ["torchrun", "-m", WORKER, *request.argv()]
    """

    train: str
    validation: str
    contract: str
    checkpoints: str
    output: str
    options: Options = field(default_factory=Options)
    strategy: str = "auto"
    device: str = "auto"
    module: str = ""
    module_args: Mapping[str, Any] = field(default_factory=dict)

    def argv(self) -> list[str]:
        """The words after the worker's name; what is at its default is left out."""
        words = [word for name in ADDRESSES for word in (f"--{name}", getattr(self, name))]
        words += ["--options", json.dumps(asdict(self.options), sort_keys=True)]
        for name, default in (("strategy", "auto"), ("device", "auto"), ("module", "")):
            words += [f"--{name}", getattr(self, name)] if getattr(self, name) != default else []
        return words + (["--module-args", json.dumps(dict(self.module_args), sort_keys=True)] if self.module_args else [])

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Self:
        """Reads what `argv` wrote.

        Raises:
            UserError: A word is unknown or missing, or something is not JSON.
        """
        parser = _Parser(prog=WORKER, add_help=False, allow_abbrev=False)
        for name in ADDRESSES:
            parser.add_argument(f"--{name}", required=True)
        for name, default in (("options", "{}"), ("strategy", "auto"), ("device", "auto"), ("module", ""), ("module-args", "{}")):
            parser.add_argument(f"--{name}", default=default)
        given = parser.parse_args(argv)
        words = vars(given)
        options, module_args = _mapping("options", words.pop("options")), _mapping("module-args", words.pop("module_args"))
        known = [option.name for option in fields(Options)]
        for name in options:
            if name not in known:
                raise UserError(f"options names {name!r}", where="command line of a rank", remedy=close_names(name, known))
        return cls(**words, options=Options(**options), module_args=module_args)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message, where="command line of a rank", remedy="see train_distributed.request for the words it takes")


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"--{name} is not JSON: {error}", where="command line of a rank", remedy="write it as '{\"seed\": 7}'") from error
    if not isinstance(value, dict):
        raise UserError(f"--{name} is {text}", where="command line of a rank", remedy="give a mapping, as '{\"seed\": 7}'")
    return value
