"""The KFP face of `deploy_model`: types, defaults and documentation; the work is in core.py."""

from typing import NamedTuple

from kfp import dsl

from kfp_foundry.components.common import images


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False)
def deploy_model(
    model: dsl.Input[dsl.Model],
    endpoint: dsl.Output[dsl.Artifact],
    name: str,
    outcome: str = "pass",
    target: str = "auto",
    threshold: float = 0.5,
    namespace: str = "",
    runtime: str = "kfp-foundry",
    service_account: str = "",
    min_replicas: int = 1,
    max_replicas: int = 1,
    cpu: str = "1",
    memory: str = "1Gi",
    strategy: str = "all_at_once",
) -> NamedTuple("Outputs", [("deployed", bool), ("url", str)]):
    """Serves a model beside the one that serves now; it gets the endpoint's traffic only when it is promoted.

    On a laptop the model server is a process of its own that lives on after the run (`kfp-foundry endpoints` lists and stops
    it). The same model with the same threshold is not deployed twice. Serving on KServe is not part of this release: with the
    target `kubeflow` nothing is deployed, and the endpoint says so.

    Args:
        model: Model folder to serve; its digests are checked first.
        endpoint: JSON: name, address, digest and threshold of what was deployed; traffic 0 and a note when nothing was.
        name: Name of the endpoint and of the model in its addresses.
        outcome: What the gate before said: `pass`, `warn` or `fail`; after `fail` nothing is deployed.
        target: `kubeflow`, `local`, or `auto`: where this step runs.
        threshold: Binary models: probability from which the positive class is predicted, 0 to 1.
        namespace: KServe: namespace of the service; empty: the run's.
        runtime: KServe: serving runtime.
        service_account: KServe: service account of the server, which may read the model store; empty: the namespace's default.
        min_replicas: KServe: fewest servers.
        max_replicas: KServe: most servers.
        cpu: KServe: processors per server, such as `500m` or `2`.
        memory: KServe: memory per server, such as `1Gi`.
        strategy: KServe: `all_at_once`, or `canary` (a share of the traffic first).

    Returns:
        deployed: Whether the model answers.
        url: The base address at which it answers; empty when nothing was deployed.
    """
    from kfp_foundry.components.deployment.deploy_model import core

    settings = core.KServe(namespace, runtime, service_account, min_replicas, max_replicas, cpu, memory, strategy)
    return core.run(model, endpoint, name, outcome, target, threshold, settings)
