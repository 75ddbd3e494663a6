"""A copy of a training's checkpoints behind an address, for a machine that comes back without its disk."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from kfp_foundry.components.common import store
from kfp_foundry.components.common.errors import IntegrityError, UserError
from kfp_foundry.components.common.learning.network.checkpoint import Checkpoints

EVERY_SECONDS = "KFP_FOUNDRY_CHECKPOINT_SECONDS"
EVERY_STEPS = "KFP_FOUNDRY_CHECKPOINT_STEPS"


class StoreMirror:
    """Checkpoints in an object store; a folder counts there once `store.send` has finished it.

    Args:
        uri: Folder of this training's checkpoints.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def push(self, folder: Path) -> None:
        """Copies the checkpoints that the store lacks, then removes there those that the folder no longer has.

        Raises:
            PlatformError: The store does not answer or refuses.
        """
        here, there = {place.name for place in folder.glob("step-*")}, set(store.names(self.uri))
        for name in sorted(here):
            if name not in there or not store.is_complete(store.join(self.uri, name)):
                store.send(folder / name, store.join(self.uri, name))
        for name in sorted(there - here):
            if name.startswith("step-"):
                store.remove(store.join(self.uri, name))

    def pull(self, folder: Path) -> None:
        """Copies the finished checkpoints that the folder lacks.

        Raises:
            PlatformError: The store does not answer or refuses.
        """
        for name in store.names(self.uri):
            place = folder / name
            if not name.startswith("step-") or place.exists():
                continue
            try:
                store.fetch(store.join(self.uri, name), place, whole=True)
            except IntegrityError:  # cut short while it was written; the one before it is taken
                shutil.rmtree(place, ignore_errors=True)


def checkpoints_at(uri: str) -> Checkpoints:
    """The checkpoints of a training at an address: there itself when it is a folder here, else here with a copy there."""
    address = store.address_of(uri)
    steps, seconds = int(_number(EVERY_STEPS, 0)), _number(EVERY_SECONDS, 300)
    if address.is_local:
        return Checkpoints(Path(address.path), every_steps=steps, every_seconds=seconds)
    here = Path(tempfile.gettempdir()) / f"kfp-foundry-checkpoints-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    return Checkpoints(here, StoreMirror(uri), every_steps=steps, every_seconds=seconds)


def _number(name: str, default: float) -> float:
    given = os.environ.get(name, "")
    try:
        return float(given or default)
    except ValueError as error:
        raise UserError(f"{name} is {given!r}", where="environment", remedy="give a number") from error
