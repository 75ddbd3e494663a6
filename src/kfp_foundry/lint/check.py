"""All rules, over one pipeline."""

from collections.abc import Callable, Iterator

from kfp_foundry.ir import Compiled
from kfp_foundry.lint import graphs, steps, values
from kfp_foundry.lint.finding import Finding, Level

RULES: list[Callable[[Compiled], Iterator[Finding]]] = [
    graphs.one_of,
    graphs.loops,
    graphs.nested,
    graphs.shadowed_defaults,
    graphs.inputs,
    graphs.dangling,
    graphs.conditions,
    graphs.after_failures,
    values.texts,
    values.sizes,
    values.numbers,
    steps.images,
    steps.commands,
    steps.environment,
    steps.importers,
    steps.outputs,
    graphs.cost,
    steps.platform,
]


def check(compiled: Compiled) -> list[Finding]:
    """Everything that the rules find, the worst first and each once.

    Example:
        >>> check(Compiled.load("pipelines/train_and_deploy/pipeline.yaml"))
    """
    found = dict.fromkeys(finding for rule in RULES for finding in rule(compiled))
    return sorted(found, key=lambda finding: list(Level).index(finding.level))
