"""The KFP face of `require_verdict`: types, defaults and documentation; the work is in core.py."""

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def require_verdict(verdict: dsl.Input[dsl.Artifact], allow_warn: bool = True) -> str:
    """Stops the pipeline when a gate said no, and names the checks that failed.

    The gate itself returns its verdict and ends well, since the artifacts of a failed step are lost on a cluster.

    Args:
        verdict: Verdict of a gate, such as `validate_table`.
        allow_warn: Whether a run may go on with warnings.

    Returns:
        The outcome that was let through: `pass` or `warn`.
    """
    from kfp_foundry.components.validation.require_verdict import core

    return core.run(verdict, allow_warn)
