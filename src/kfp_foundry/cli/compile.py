"""`kfp-foundry compile`."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kfp_foundry.catalog import pipelines
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.files import write_text

SHOWN = 40  # lines of a difference


SEARCH = ".search.yaml"  # a search, which becomes an Experiment of Katib


@dataclass(frozen=True)
class Job:
    """One pipeline or search to compile: where its source is, and where its YAML goes."""

    name: str
    source: Path
    function: str
    module: str
    target: Path

    @property
    def word(self) -> str:
        """What a person calls it on the command line."""
        return self.name if self.module else _short(self.source)


def compile_pipelines(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FILE.py[:FUNCTION]|FILE.search.yaml]...", help="Pipelines and searches; all shipped ones by default."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when a YAML is not what its source compiles to.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write, or a folder; default: beside the source.")] = None,
    registry: Annotated[str, typer.Option(help="Registry of this project's images, instead of their own.")] = "",
    image: Annotated[list[str] | None, typer.Option(metavar="NAME=REFERENCE", help="Other reference for one image, such as a digest.")] = None,
) -> None:
    """Compiles pipelines to YAML and searches to Experiments of Katib, or checks that the committed YAML is current.

    The same source gives the same bytes. With --registry and --image the steps get the images of a release or of your own
    registry: kfp-foundry compile train_and_deploy --image kfp-foundry=host/kfp-foundry@sha256:... -o release.yaml
    """
    from kfp_foundry.compile import images

    jobs = plan(what or [], output)
    pins = images.parse_pins(image or [])
    if (registry or pins) and output is None and not check:
        raise UserError("images of a release do not belong into the committed YAML", where="compile", remedy="say where to write with --output FILE")
    stale = 0
    for job in jobs:
        old = _text(job.target)
        text = _compiled(job, registry, pins)
        if check:
            _restore(job.target, old)
            stale += not _checked(job, old, text)
        else:
            _write(job, old, text)
    if stale:
        raise typer.Exit(1)


def plan(what: list[str], output: Path | None) -> list[Job]:
    """Finds sources and targets.

    Raises:
        UserError: An unknown pipeline, or one output file for several.
    """
    words = what or [pipeline.name for pipeline in pipelines.every()] + ([] if output else _searches())
    into_folder = output is not None and (output.is_dir() or output.suffix not in (".yaml", ".yml"))
    if output is not None and len(words) > 1 and not into_folder:
        raise UserError(f"one file for {len(words)} pipelines", where=f"--output {output}", remedy="give a folder, or one pipeline")
    return [_job(word, output, into_folder) for word in words]


def _job(word: str, output: Path | None, into_folder: bool) -> Job:
    path, _, function = word.partition(":")
    if path.endswith(SEARCH):
        source, module = Path(path), ""
        name = source.name.removesuffix(SEARCH)
        beside = source.with_name(f"{name}.yaml")
    elif path.endswith(".py"):
        name, source, module, beside = Path(path).stem, Path(path), "", Path(path).with_suffix(".yaml")
    elif path.endswith((".yaml", ".yml")):
        raise UserError(
            "is compiled already", where=path, remedy=f"give its source (FILE.py or FILE.search.yaml), or check it with: kfp-foundry lint {path}"
        )
    else:
        known = {pipeline.name: pipeline for pipeline in pipelines.every()}
        found = known.get(path.replace("-", "_"))
        if found is None:
            raise UserError(f"no pipeline {path!r}", where="compile", remedy=f"{close_names(path, list(known))} (or give a FILE.py)")
        name, source, module, beside = found.name, found.folder / pipelines.SOURCE, found.module, found.yaml
        if not (pipelines.root().parent / "pyproject.toml").exists():
            beside = Path(f"{name}.yaml")  # installed: nobody looks for files among the packages
    target = beside if output is None else output / f"{name}.yaml" if into_folder else output
    return Job(name, source, function, module, target)


def _searches() -> list[str]:
    from kfp_foundry.compile import experiments

    return [str(file) for file in experiments.sources()]


def _compiled(job: Job, registry: str, pins: dict[str, str]) -> str:
    from kfp_foundry.compile import compiler, experiments, images

    if job.source.name.endswith(SEARCH):
        return experiments.compile_search(job.source, registry, pins)
    text = compiler.compile_module(job.module) if job.module else compiler.compile_file(job.source, job.function)
    return images.rewrite(text, registry, pins, where=job.name) if registry or pins else text


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _restore(target: Path, old: str | None) -> None:
    """Undoes what a source did that compiles itself when it is imported."""
    if old is None:
        target.unlink(missing_ok=True)
    elif _text(target) != old:
        write_text(target, old)


def _write(job: Job, old: str | None, text: str) -> None:
    if _text(job.target) != text:
        write_text(job.target, text)
    typer.echo(f"{_short(job.target)}: {'unchanged' if old == text else 'written'}")


def _checked(job: Job, old: str | None, text: str) -> bool:
    if old == text:
        typer.echo(f"{_short(job.target)}: current")
        return True
    typer.echo(f"{_short(job.target)}: {'differs from what its source compiles to' if old else 'does not exist'}", err=True)
    changes = list(difflib.unified_diff(old.splitlines(), text.splitlines(), "committed", "compiled", n=1, lineterm="")) if old else []
    for line in changes[:SHOWN]:
        typer.echo(line[:200], err=True)
    if len(changes) > SHOWN:
        typer.echo(f"... {len(changes) - SHOWN} more lines", err=True)
    for variable in ("KFP_FOUNDRY_REGISTRY", "KFP_FOUNDRY_IMAGE"):
        if os.environ.get(variable):
            typer.echo(f"note: {variable} is set in the environment, and images follow it", err=True)
    typer.echo(f"write it with: kfp-foundry compile {job.word}", err=True)
    return False


def _short(path: Path) -> str:
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)
