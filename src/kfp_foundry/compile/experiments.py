"""Searches to Experiments of Katib: `katib/NAME.search.yaml` to `katib/NAME.yaml`."""

from pathlib import Path
from typing import Any

import yaml

from kfp_foundry.catalog import pipelines
from kfp_foundry.compile import images as references
from kfp_foundry.components.common import images
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import FoundryError, UserError, close_names
from kfp_foundry.components.common.kube.pods import PodOptions, settings_env
from kfp_foundry.components.common.learning import parameters
from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate, render
from kfp_foundry.components.tuning.tune_model.katib.given import Given
from kfp_foundry.components.tuning.tune_model.search import Search, check_words

SUFFIX = ".search.yaml"
WORDS = ("name", "train", "validation", "contract", "options", "search", "folds", "resources")
LINE = 140


def sources() -> list[Path]:
    """The searches that this project ships; none where it is installed without its source."""
    root = pipelines.root().parent
    return sorted((root / "katib").glob(f"*{SUFFIX}")) if (root / "pyproject.toml").exists() else []


def compile_search(file: Path, registry: str = "", pins: dict[str, str] | None = None) -> str:
    """Renders the Experiment of a search.

    Args:
        file: YAML with the words of `WORDS`; the comment at its start becomes the Experiment's.
        registry: Registry of this project's images, instead of their own.
        pins: New references by image.

    Returns:
        The YAML; the same source gives the same bytes.

    Raises:
        UserError: The file cannot be read, or Katib or the training does not take what it says.
    """
    if not file.is_file():
        raise UserError("no such file", where=str(file), remedy="check the path")
    written = file.read_text(encoding="utf-8")
    words = _read(written, str(file))
    try:
        body = _render(words, str(file))
    except FoundryError as error:
        if str(file) in error.where:
            raise
        raise UserError(error.what, where=f"{file}: {error.where}", remedy=error.remedy) from error
    containers = body["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"]
    references.redirect(containers, registry, pins or {})
    head = [f"# Rendered from {file.name} by `kfp-foundry compile`; change that file, not this one.", "#"]
    for line in written.splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    return "\n".join(head) + "\n" + yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=LINE, allow_unicode=True)


def _read(text: str, where: str) -> dict[str, Any]:
    try:
        words = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"no YAML: {error}", where=where, remedy="repair it") from error
    if not isinstance(words, dict):
        raise UserError("is no mapping", where=where, remedy=f"give the words {', '.join(WORDS)}")
    for word in words:
        if word not in WORDS:
            raise UserError(f"unknown word {word!r}", where=where, remedy=close_names(str(word), list(WORDS)))
    for word in ("name", "train", "contract", "search"):
        if not words.get(word):
            raise UserError(f"{word} is missing", where=where, remedy=f"give {word}")
    return words


def _render(words: dict[str, Any], where: str) -> dict[str, Any]:
    from kfp_foundry.components.tuning.tune_model.katib.engine import check_reachable
    from kfp_foundry.components.tuning.tune_model.objective import check_metric

    options = dict(words.get("options") or {})
    algorithm = options.setdefault("algorithm", "lightgbm")
    if algorithm not in parameters.ALGORITHMS:
        remedy = close_names(str(algorithm), list(parameters.ALGORITHMS))
        raise UserError(f"algorithm is {algorithm!r}", where=f"{where}: options", remedy=remedy)
    search = Search.read(words["search"], f"{where}: search")
    if "\n" in words["contract"]:
        task = Contract.parse(words["contract"], f"{where}: contract").task
        if task is not None:
            for metric in (search.metric, *search.additional_metrics):
                check_metric(metric, task)
            check_words(search, algorithm, task, options.get("params") or {}, f"{where}: search")
    given = Given(words["train"], words.get("validation") or "", words["contract"], options, search, int(words.get("folds") or 0))
    check_reachable(given)
    image = images.TORCH if algorithm in parameters.TRAINERS["torch"] else images.FOUNDRY
    pod = PodOptions(resources=words.get("resources") or {})
    # The sample needs none of a cluster's settings; another table may.
    settings = [] if given.train.startswith("sample://") else settings_env()
    return render(TrialTemplate(image, given, pod, settings), {"name": words["name"]})


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, others on one line, so that a person can read them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    if "\n" in value:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value)


_Dumper.add_representer(str, _text)
