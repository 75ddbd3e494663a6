"""The step that fails a run on behalf of a gate."""

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.gate import require_artifact
from kfp_foundry.components.common.step import step


@step
def run(verdict: Artifact, allow_warn: bool) -> str:
    """Reads a verdict and lets it through, or raises.

    Raises:
        GateRefused: The gate said `fail`, or `warn` where that is not allowed; names the gate and the first such checks.
        IntegrityError: The artifact is no verdict.
    """
    return require_artifact(verdict, allow_warn)
