"""The container images of the steps, tied to the package version.

The KFP cache key holds the image string and not the library's code, so the version stands in the tag: a new release never
takes a result of an old one. `kfp-foundry compile --registry/--image` rewrites the references in a compiled pipeline.
"""

import os
from importlib.metadata import PackageNotFoundError, version


def _version() -> str:
    try:
        return version("kfp-foundry")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0.0.0"


VERSION = _version()
REGISTRY = os.environ.get("KFP_FOUNDRY_REGISTRY", "ghcr.io/kfp-foundry")

FOUNDRY = os.environ.get("KFP_FOUNDRY_IMAGE", f"{REGISTRY}/kfp-foundry:{VERSION}")
TORCH = os.environ.get("KFP_FOUNDRY_IMAGE_TORCH", f"{REGISTRY}/kfp-foundry-torch:{VERSION}")
SERVER = os.environ.get("KFP_FOUNDRY_IMAGE_SERVER", f"{REGISTRY}/kfp-foundry-server:{VERSION}")
