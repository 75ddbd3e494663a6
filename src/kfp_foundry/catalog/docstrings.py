"""Google-style docstrings, taken apart."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SECTIONS = ("Args", "Returns", "Raises", "Example", "Examples", "Note", "Yields")
_ENTRY = re.compile(r"^(\*{0,2}[\w.]+)(?: \([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True)
class Docstring:
    """A docstring's parts.

    Args:
        summary: The first paragraph, as one line.
        description: The paragraphs between it and the first section.
        args: Text of each argument.
        returns: Text of each named output; an unnamed one has the name "".
        raises: Error class and when it is raised, in order; a class may stand several times.
    """

    summary: str = ""
    description: str = ""
    args: dict[str, str] = field(default_factory=dict)
    returns: dict[str, str] = field(default_factory=dict)
    raises: list[tuple[str, str]] = field(default_factory=list)


def parse(text: str | None) -> Docstring:
    """Takes a docstring apart; None gives an empty one.

    Example:
        >>> parse("Adds.\\n\\nArgs:\\n    a: One\\n        number.").args
        {'a': 'One number.'}
    """
    sections = _sections(inspect.cleandoc(text or ""))
    summary, _, description = sections.get("", "").strip().partition("\n\n")
    returns = sections.get("Returns", "")
    named = dict(_entries(returns))
    return Docstring(
        summary=_line(summary),
        description=description.strip(),
        args=dict(_entries(sections.get("Args", ""))),
        returns=named or ({"": _line(returns)} if returns.strip() else {}),
        raises=list(_entries(sections.get("Raises", ""))),
    )


def _sections(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in text.splitlines():
        head = line.removesuffix(":")
        if head in SECTIONS and line.endswith(":"):
            current = head
            found[current] = []
        else:
            found[current].append(line)
    return {name: inspect.cleandoc("\n" + "\n".join(lines)) for name, lines in found.items()}


def _entries(section: str) -> Iterator[tuple[str, str]]:
    """The `name: text` entries of a section; indented lines go on with the entry above."""
    name, lines = "", list[str]()
    for line in section.splitlines():
        match = _ENTRY.match(line)
        if match:
            if name:
                yield name, _line("\n".join(lines))
            name, lines = match[1].lstrip("*"), [match[2]]
        elif name:
            lines.append(line)
    if name:
        yield name, _line("\n".join(lines))


def _line(text: str) -> str:
    return " ".join(text.split())
