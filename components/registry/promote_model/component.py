"""The KFP face of `promote_model`: types, defaults and documentation; the work is in core.py."""

from typing import NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def promote_model(
    model_name: str,
    version: str,
    comparison_outcome: str,
    endpoint_outcome: str,
    endpoint: dsl.Input[dsl.Artifact],
    serving: dsl.Output[dsl.Artifact],
    alias: str = "champion",
) -> NamedTuple("Outputs", [("promoted", bool), ("champion", str)]):
    """Makes the challenger the champion when the gates allow it: first the traffic, then the alias in the registry.

    When a gate said no the champion stays, and a candidate that failed its verification is taken away; what that means for the
    run is for a later `require_verdict` to say. The champion before gets the tags `stage=archived` and `replaced_by`.

    Args:
        model_name: Name of the registered model.
        version: The challenger's version; empty when it was not registered, then only traffic is switched.
        comparison_outcome: `pass`, `warn` or `fail`: outcome of the comparison with the champion.
        endpoint_outcome: `pass`, `warn` or `fail`: outcome of the endpoint's verification.
        endpoint: Where the challenger answers.
        serving: Where the model answers that serves after this step: the challenger, or the champion that stays.
        alias: Alias that names the champion.

    Returns:
        promoted: Whether the challenger is the champion now.
        champion: Version of the champion after this step; empty when there is none in the registry.
    """
    from kfp_foundry.components.registry.promote_model import core

    return core.run(model_name, version, core.Gates(comparison_outcome, endpoint_outcome), endpoint, serving, alias)
