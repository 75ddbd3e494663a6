"""Where a training on ranks runs: how many machines, ranks and accelerators, under what limits, and who decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.kube.pods import TaskConfig

WHERE = "train_distributed"
GPU_WORDS = ("gpu", "nvidia.com/")  # how device plugins name them: nvidia.com/gpu, nvidia.com/mig-1g.5gb, amd.com/gpu, gpu.intel.com/i915


@dataclass(frozen=True)
class Placement:
    """Where a training runs; `train_distributed`'s parameters of the same names say what they mean.

    Args:
        nodes: Machines.
        ranks_per_node: 0 for one per accelerator, or one.
        accelerators: Per machine; 0 for those that `resources` asks for.
        accelerator_type: As the device plugin names it.
        checkpoint_uri: Folder for checkpoints; empty for one beside the model.
        runtime: Name of the Trainer's runtime.
        service_account: Of the ranks' pods; empty for the namespace's default.
        queue: Kueue's queue; empty for none.
        timeout_minutes: Of running; 0 for no limit.
        queue_timeout_minutes: Of waiting for a place; 0 for no limit.
        target: `auto`, `kubeflow` or `local`.
        resources: What the platform passed through of the step's own settings.
    """

    nodes: int = 1
    ranks_per_node: int = 0
    accelerators: int = 0
    accelerator_type: str = "nvidia.com/gpu"
    checkpoint_uri: str = ""
    runtime: str = "kfp-foundry-torch"
    service_account: str = ""
    queue: str = ""
    timeout_minutes: int = 0
    queue_timeout_minutes: int = 0
    target: str = "auto"
    resources: TaskConfig | None = None

    def check(self) -> None:
        """Refuses numbers that mean nothing.

        Raises:
            UserError: One is out of its range.
        """
        if self.nodes < 1:
            raise UserError(f"nodes is {self.nodes}", where=WHERE, remedy="give 1 or more")
        for name in ("ranks_per_node", "accelerators", "timeout_minutes", "queue_timeout_minutes"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}", where=WHERE, remedy="give 0 or more")

    def devices(self, limits: Mapping[str, Any]) -> dict[str, int]:
        """The accelerators of each machine, by the name under which a pod asks for them; empty without any.

        Args:
            limits: The resource limits that the platform passed through.

        Raises:
            UserError: The parameters and the step's own settings say different things.
        """
        asked = {name: int(amount) for name, amount in limits.items() if any(word in name for word in GPU_WORDS) and int(amount) > 0}
        if not self.accelerators:
            return asked
        own = {self.accelerator_type: self.accelerators}
        if asked and asked != own:
            said = ", ".join(f"{count} {name}" for name, count in asked.items())
            remedy = "give it in one place: accelerators=, or set_accelerator_limit on the step"
            raise UserError(f"accelerators is {self.accelerators} {self.accelerator_type}, the step asks for {said}", where=WHERE, remedy=remedy)
        return own

    def ranks(self, devices: int) -> int:
        """How many ranks a machine has.

        Args:
            devices: Its accelerators.

        Raises:
            UserError: More ranks than accelerators.
        """
        if devices and self.ranks_per_node > devices:
            remedy = f"give ranks_per_node={devices} or 0: a rank computes on an accelerator of its own"
            raise UserError(f"{self.ranks_per_node} ranks for {devices} accelerators per node", where=WHERE, remedy=remedy)
        return self.ranks_per_node or devices or 1
