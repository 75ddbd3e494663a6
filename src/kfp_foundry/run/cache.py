"""Outputs of earlier steps by what went into them, whatever run and folder they lie in."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.files import write_json
from kfp_foundry.run import fingerprint
from kfp_foundry.run.values import Artifact, Values


class Cache:
    """The cache of a home folder: one small JSON file per key, which points at the artifacts where the step wrote them.

    An entry counts only as long as its artifacts are there, untouched. They are taken into the new run's folder by hard links:
    no byte is copied, and the new run lives on when the old one is deleted.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "cache"

    def _entry(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def store(self, key: str, outputs: dict[str, Any]) -> None:
        """Keeps a step's outputs as `describe` gave them."""
        write_json(self._entry(key), outputs)

    def take(self, key: str, folder: Path) -> Values | None:
        """The outputs kept under a key, brought into a step's folder; None when there are none, or their files were touched."""
        try:
            kept = json.loads(self._entry(key).read_text(encoding="utf-8"))
            if untouched(kept) is None:
                return None
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            return _bring(kept, folder)
        except (OSError, ValueError, KeyError):  # absent, half-deleted or from another version: as good as none
            return None


def describe(outputs: Values, folder: Path) -> dict[str, Any]:
    """A step's outputs as JSON, with the stamps of its files.

    Args:
        outputs: What the step gave.
        folder: The step's folder; artifacts that the step put elsewhere are known by their address only.
    """
    stamps = {artifact.uri: fingerprint.stamp(artifact.path) for many in outputs.artifacts.values() for artifact in many if artifact.path}
    return outputs.to_dict() | {"folder": str(folder), "stamps": stamps}


def untouched(described: dict[str, Any]) -> Values | None:
    """The outputs that were described, if their files are still as they were."""
    if any(fingerprint.stamp(Path(uri.removeprefix("file://"))) != stamp for uri, stamp in described["stamps"].items()):
        return None
    return Values.from_dict(described)


def _bring(kept: dict[str, Any], folder: Path) -> Values:
    old = Path(kept["folder"])
    outputs = Values.from_dict(kept)
    brought: dict[str, list[Artifact]] = {}
    for name, many in outputs.artifacts.items():
        brought[name] = []
        for artifact in many:
            uri = artifact.uri
            if artifact.path and artifact.path.is_relative_to(old):
                target = folder / artifact.path.relative_to(old)
                _link(artifact.path, target)
                uri = str(target)
            brought[name].append(Artifact(artifact.name, uri, artifact.type, artifact.metadata))
    return Values(outputs.parameters, brought)


def _link(source: Path, target: Path) -> None:
    if not source.exists():  # metadata only, such as Metrics
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file, dirs_exist_ok=True)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)
