"""KFP interface of train_distributed; the work is in core.py."""

from kfp import dsl

from kfp_foundry.components.common import images
from kfp_foundry.components.common.wiring import passthroughs


@dsl.component(base_image=images.FOUNDRY, install_kfp_package=False, task_config_passthroughs=passthroughs())
def train_distributed(
    train: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    contract: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    params: dict = {},
    class_weight: str = "",
    calibration: str = "",
    early_stopping_rounds: int = 50,
    module: str = "",
    module_args: dict = {},
    nodes: int = 1,
    ranks_per_node: int = 0,
    accelerators: int = 0,
    accelerator_type: str = "nvidia.com/gpu",
    strategy: str = "auto",
    checkpoint_uri: str = "",
    runtime: str = "kfp-foundry-torch",
    service_account: str = "",
    queue: str = "",
    timeout_minutes: int = 0,
    queue_timeout_minutes: int = 0,
    target: str = "auto",
    seed: int = 7,
    resources: dsl.TaskConfig = None,
) -> None:
    """Trains a neural network on a table with PyTorch, on several processes, GPUs or machines.

    On a cluster it starts a TrainJob (Kubeflow Trainer 2.0 and later) or a PyTorchJob (older platforms), follows it to its end,
    and brings the model back; on a laptop it starts the ranks here. Either way the model is the same as that of `train_model`:
    raw rows in, an ONNX graph that equals the network. A run that was killed goes on from its last checkpoint. What is set on the
    step (resources, accelerator, tolerations, node selectors, affinity, environment, volumes) is for the ranks; the step itself
    needs little.

    Args:
        train: Rows to fit on; those without a target are left out and counted.
        validation: Rows for early stopping, calibration and the metrics.
        contract: Data contract; its roles say which columns are the target, the features and the sample weights.
        model: MLflow model folder with `model.onnx`, the network's weights, `contract.yaml` and a digest of every file.
        metrics: Metrics on the validation rows.
        report: Page with metrics, learning curve, feature importance, exactness of the graph, parameters and versions.
        params: Parameters of the network, such as `{"width": 256, "blocks": 4}`; an unknown name is refused.
        class_weight: `balanced` gives each class the same total weight; empty for none. Classification only.
        calibration: `sigmoid` or `isotonic`, fitted on the validation rows; empty for none. Binary only.
        early_stopping_rounds: 0: training does not end early. `patience` in params decides where it is given (0: never); else
            `early_stopping_rounds=0` means never, and any other value the default of 5 epochs without a smaller validation loss.
        module: Python module with a training of your own, such as `my_package.training`; empty for our network.
        module_args: What that module finds in `context.args`.
        nodes: Machines; on a laptop, groups of ranks.
        ranks_per_node: Processes on each of them; 0 for one per accelerator, or one.
        accelerators: GPUs of each machine; 0 for those that the step itself asks for (`set_accelerator_limit`).
        accelerator_type: The GPU's resource name, such as `nvidia.com/gpu` or `nvidia.com/mig-1g.5gb`.
        strategy: `ddp` keeps all parameters on every rank, `fsdp` shards them, `auto` shards those that do not fit.
        checkpoint_uri: Folder for checkpoints (`s3://`, `gs://`, `pvc://claim/path`), in which the same training goes on in a later
            run too; empty for one beside the model, for retries of this step.
        runtime: The Trainer's runtime: a TrainingRuntime of the namespace, else a ClusterTrainingRuntime.
        service_account: Service account of the ranks' pods; empty for the namespace's default.
        queue: Kueue's local queue; empty for none.
        timeout_minutes: The training ends after so long at work; 0 for no limit.
        queue_timeout_minutes: It is given up after so long without a place; 0 for no limit.
        target: `kubeflow`, `local`, or `auto` for where the step runs.
        seed: Seed of every random choice.
        resources: Filled in by the platform: what is set on the step, for the ranks.
    """
    from kfp_foundry.components.training.train_distributed import core

    options = {"params": params, "class_weight": class_weight, "calibration": calibration, "early_stopping_rounds": early_stopping_rounds}
    placement = {
        "nodes": nodes,
        "ranks_per_node": ranks_per_node,
        "accelerators": accelerators,
        "accelerator_type": accelerator_type,
        "checkpoint_uri": checkpoint_uri,
        "runtime": runtime,
        "service_account": service_account,
        "queue": queue,
        "timeout_minutes": timeout_minutes,
        "queue_timeout_minutes": queue_timeout_minutes,
        "target": target,
        "resources": resources,
    }
    core.run(train, validation, contract, model, metrics, report, placement, strategy, module, module_args, seed=seed, **options)
