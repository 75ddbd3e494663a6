"""Rules over the steps: images, commands, environment, importers, platform options."""

from collections.abc import Iterator
from typing import Any

from kfp_foundry.compile.images import split
from kfp_foundry.ir import Compiled
from kfp_foundry.lint.finding import Finding, Level
from kfp_foundry.lint.values import LONGEST_ARGUMENT

MOVING_TAGS = ("", "latest", "main", "master", "develop", "dev", "nightly", "edge", "stable")
REMOTE = ("s3", "gs", "minio", "oci", "hf", "http", "https")


def images(compiled: Compiled) -> Iterator[Finding]:
    """Images whose content can change under the same name."""
    for step, container in _containers(compiled):
        reference = str(container.get("image", ""))
        repository, tag, digest = split(reference)
        if not digest and tag in MOVING_TAGS and "{{$" not in reference:
            yield Finding(
                "moving-image",
                Level.WARNING,
                f"step {step}",
                f"image {reference} names no version: a cache hit or a rerun may take other code (the cache key holds the image's name only)",
                f"name a version or a digest, such as {repository}:1.0",
            )


def commands(compiled: Compiled) -> Iterator[Finding]:
    """Commands that need a container, a package index, or more room than there is."""
    for step, container in _containers(compiled):
        command = [str(word) for word in [*container.get("command", []), *container.get("args", [])]]
        whole = " ".join(command)
        if "kfp.dsl.executor_main" not in whole:
            yield Finding(
                "container-component",
                Level.WARNING,
                f"step {step}",
                "a container component: neither kfp.local without Docker nor kfp-foundry run can run it",
                "use a Python component, if the pipeline is to run on a laptop",
            )
        elif "--component_module_path" not in whole:
            yield Finding(
                "target-image",
                Level.WARNING,
                f"step {step}",
                "a component with target_image: neither kfp.local without Docker nor kfp-foundry run can run it",
                "install the code as a package in the image, and use base_image",
            )
        if "pip install" in whole:
            yield Finding(
                "pip-install",
                Level.WARNING,
                f"step {step}",
                "installs packages when it runs: slow, different from day to day, impossible without a network; locally it changes your environment",
                "put the packages into the image, and write install_kfp_package=False",
            )
        if "__KFP_EMBEDDED_ARCHIVE" in whole:
            yield Finding(
                "embedded-files",
                Level.NOTE,
                f"step {step}",
                "embedded files: their times are in the archive, so that no two compilations are equal and the cache never hits",
                "install the files as package data in the image",
            )
        longest = max((len(word.encode()) for word in command), default=0)
        if longest > LONGEST_ARGUMENT:
            yield Finding(
                "long-argument",
                Level.ERROR,
                f"step {step}",
                f"an argument of the command has {longest:,} bytes, and a process takes at most {LONGEST_ARGUMENT:,}: the step cannot start anywhere",
                "install the code as a package in the image",
            )


def environment(compiled: Compiled) -> Iterator[Finding]:
    """Variables whose value is a parameter."""
    for step, container in _containers(compiled):
        for variable in container.get("env", []):
            if "{{$" in str(variable.get("value")) or "{{channel:" in str(variable.get("value")):
                yield Finding(
                    "env-from-parameter",
                    Level.ERROR,
                    f"step {step}: {variable.get('name')}",
                    "a variable's value comes from a parameter: it reaches the step as the unexpanded text",
                    "pass the parameter to the component",
                )


def importers(compiled: Compiled) -> Iterator[Finding]:
    """Importers of addresses that are no local path."""
    for label, executor in compiled.executors.items():
        address = str(executor.get("importer", {}).get("artifactUri", {}).get("constant", ""))
        scheme = address.partition("://")[0] if "://" in address else ""
        if scheme in REMOTE:
            yield Finding(
                "importer-remote",
                Level.WARNING,
                f"step {label.removeprefix('exec-')}",
                f"imports {address}: nothing is downloaded on a laptop, and the path of the artifact does not exist there",
                "read the address in a component (ingest_table), or take it as a parameter",
            )
        elif scheme == "file":
            yield Finding(
                "importer-file",
                Level.WARNING,
                f"step {label.removeprefix('exec-')}",
                f"imports {address}: kfp.local takes file:// as a part of the path",
                "give the plain path",
            )


def outputs(compiled: Compiled) -> Iterator[Finding]:
    """Artifact types that the SDK cannot write."""
    for label, component in compiled.components.items():
        for name, spec in component.get("outputDefinitions", {}).get("artifacts", {}).items():
            if spec.get("artifactType", {}).get("schemaTitle") == "system.SlicedClassificationMetrics":
                yield Finding(
                    "sliced-metrics",
                    Level.ERROR,
                    f"step {label.removeprefix('comp-')}: {name}",
                    "SlicedClassificationMetrics: writing one raises AttributeError in every SDK up to 2.17",
                    "use one ClassificationMetrics for the whole, and an HTML report for the slices",
                )


def platform(compiled: Compiled) -> Iterator[Finding]:
    """What only a cluster does, or what the shipped settings of KFP undo."""
    tasks = [(f"{graph.place}/{name}", task) for graph in compiled.graphs() for name, task in graph.tasks.items()]
    retried = [place for place, task in tasks if task.get("retryPolicy", {}).get("maxRetryCount")]
    if retried:
        yield Finding(
            "retry",
            Level.NOTE,
            retried[0] + (f" and {len(retried) - 1} more" if len(retried) > 1 else ""),
            "set_retry: KFP 2.17 as shipped starts a step anew when its pod is lost, not when its code fails",
            "retry network calls inside the step",
        )
    options = [document["platforms"]["kubernetes"] for document in compiled.documents[1:] if "kubernetes" in (document or {}).get("platforms", {})]
    used = {option for each in options for step in each.get("deploymentSpec", {}).get("executors", {}).values() for option in step}
    if used:
        yield Finding(
            "kubernetes-options",
            Level.NOTE,
            "pipeline",
            f"Kubernetes options do nothing on a laptop: {', '.join(sorted(used))}",
            "set the same variables in your shell; pass mounted paths as parameters",
        )
    if any("workspace" in each.get("pipelineConfig", {}) for each in options):
        yield Finding(
            "workspace",
            Level.NOTE,
            "pipeline",
            "a workspace: kfp.local deletes its folder after each run, also one that you named",
            "keep nothing in it that you want to see again",
        )


def _containers(compiled: Compiled) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, executor in compiled.executors.items():
        if "container" in executor:
            yield label.removeprefix("exec-"), executor["container"]
