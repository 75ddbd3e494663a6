"""The image references of a compiled pipeline: moved to another registry, or pinned to a digest."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from kfp_foundry.components.common import images
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.ir import Compiled

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def split(reference: str) -> tuple[str, str, str]:
    """A reference's repository, tag and digest; the last two may be empty.

    Example:
        >>> split("host:5000/team/app:1.0@sha256:ab")
        ('host:5000/team/app', '1.0', 'sha256:ab')
    """
    name, _, digest = reference.partition("@")
    head, slash, tail = name.rpartition("/")
    last, _, tag = tail.partition(":")
    return f"{head}{slash}{last}", tag, digest


def parse_pins(words: list[str]) -> dict[str, str]:
    """Reads `name=reference` words.

    Raises:
        UserError: A word has no `=`, or an empty side; a digest is not a whole one.
    """
    pins = {}
    for word in words:
        name, _, reference = word.partition("=")
        if not name or not reference:
            raise UserError(f"{word!r} is not name=reference", where="--image", remedy="write it like kfp-foundry=host/kfp-foundry@sha256:...")
        if "@" in reference and not _DIGEST.fullmatch(split(reference)[2]):
            raise UserError(f"{reference!r} has no whole digest", where=f"--image {name}", remedy="write @sha256: and 64 characters of 0-9 and a-f")
        pins[name] = reference
    return pins


def rewrite(text: str, registry: str = "", pins: Mapping[str, str] | None = None, where: str = "pipeline") -> str:
    """Gives the steps of a compiled pipeline other images; nothing else changes.

    Args:
        text: The compiled pipeline.
        registry: Where the images of this project are, instead of their own registry; other images keep theirs.
        pins: New references by image: its last name (`kfp-foundry`), its repository, or its whole reference.
        where: Names the pipeline in errors.

    Raises:
        UserError: A pin matches no image of the pipeline.
    """
    compiled = Compiled.parse(text, where)
    containers = [executor["container"] for executor in compiled.executors.values() if "container" in executor]
    redirect(containers, registry, pins or {})
    return dump(compiled.documents, text)


def redirect(containers: list[dict[str, Any]], registry: str, pins: Mapping[str, str]) -> None:
    """Gives containers other images, in place.

    Args:
        containers: Each with an `image`.
        registry: Where the images of this project are; empty leaves them where they are.
        pins: New references, as for `rewrite`.

    Raises:
        UserError: A pin matches no image of them.
    """
    unused = set(pins)
    for container in containers:
        old = str(container["image"])
        pin = next((key for key in _keys(old) if key in pins), None)
        if pin is not None:
            container["image"] = pins[pin]
            unused.discard(pin)
        elif registry and old.startswith(f"{images.REGISTRY}/"):
            container["image"] = f"{registry.rstrip('/')}/{old.removeprefix(images.REGISTRY + '/')}"
    if unused:
        known = sorted({split(str(container["image"]))[0].rpartition("/")[2] for container in containers})
        name = min(unused)
        raise UserError(f"no step uses an image {name!r}", where=f"--image {name}", remedy=close_names(name, known))


def _keys(reference: str) -> list[str]:
    repository, tag, _ = split(reference)
    return [reference, f"{repository}:{tag}", repository, repository.rpartition("/")[2]]


def dump(documents: list[dict[str, Any]], original: str) -> str:
    """Documents as kfp writes them, under the comment that stands above the original."""
    lines = original.splitlines(keepends=True)
    header = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:header]) + "---\n".join(yaml.safe_dump(document, sort_keys=True) for document in documents)
