"""Reusable Kubeflow Pipelines components: `from kfp_foundry.components import train_model`.

The names stand in `__init__.pyi` (written by `kfp-foundry docs`) and are imported when they are used, never before: inside a
task `_KFP_RUNTIME=true` hides KFP's decorators, and a component module that is imported there fails.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
