"""lint: every hazard, compiled by kfp from a small pipeline, is found; what is clean stays clean."""

import json
import warnings
from typing import NamedTuple, Optional

import pytest
from kfp import compiler, dsl, kubernetes

from kfp_foundry.catalog import pipelines
from kfp_foundry.cli.main import main
from kfp_foundry.ir import Compiled
from kfp_foundry.lint.check import check
from kfp_foundry.lint.finding import Level

warnings.simplefilter("ignore")
IMAGE = "example.org/steps-python:1.0"
component = dsl.component(base_image=IMAGE, install_kfp_package=False)


@component
def text(x: str = "a") -> str:
    return x


@component
def texts() -> list[str]:
    return ["a", "b"]


@component
def named_texts() -> NamedTuple("Outputs", [("names", list[str])]):
    return (["a"],)


@component
def make(data: dsl.Output[dsl.Dataset]):
    pass


@component
def use(data: dsl.Input[dsl.Dataset], x: str = "x"):
    pass


@component
def maybe_count(count: Optional[int] = None):  # noqa: UP045 - kfp 2.17 takes no other spelling
    pass


@component
def sliced(metrics: dsl.Output[dsl.SlicedClassificationMetrics]):
    pass


@dsl.component(base_image=IMAGE)
def installs_kfp():
    pass


@dsl.component(base_image="python:3.11", packages_to_install=["polars"], install_kfp_package=False)
def installs_polars():
    pass


@dsl.component(base_image="example.org/steps:latest", install_kfp_package=False)
def latest():
    pass


@dsl.component(base_image="example.org:5000/steps", install_kfp_package=False)
def untagged():
    pass


@dsl.component(base_image=IMAGE, target_image="example.org/app:1.0", install_kfp_package=False)
def targeted():
    pass


@dsl.container_component
def contained():
    return dsl.ContainerSpec(image="alpine:3.20", command=["echo", "hello"])


def branches_over_cached(x: str = "a"):
    with dsl.If(x == "a"):
        one = text(x="1")
    with dsl.Else():
        two = text(x="2")
    text(x=dsl.OneOf(one.output, two.output))


def branches_over_uncached(x: str = "a"):
    with dsl.If(x == "a"):
        one = text(x="1").set_caching_options(False)
    with dsl.Else():
        two = text(x="2").set_caching_options(False)
    text(x=dsl.OneOf(one.output, two.output))


def branches_of_artifacts(x: str = "a"):
    with dsl.If(x == "a"):
        one = make().set_caching_options(False)
    with dsl.Else():
        two = make().set_caching_options(False)
    use(data=dsl.OneOf(one.output, two.output))


def loop_with_outer_output():
    outer = text()
    with dsl.ParallelFor(["1", "2"]) as item:
        text(x=item)
        text(x=outer.output)


def loop_with_outer_parameter(outer: str = "o"):
    with dsl.ParallelFor(["1", "2"]) as item:
        text(x=item)
        text(x=outer)


def loop_over_named_output():
    with dsl.ParallelFor(named_texts().outputs["names"]) as item:
        text(x=item)


def two_parts_of_an_item_in_one_text(items: list[dict[str, str]]):
    with dsl.ParallelFor(items) as item:
        text(x=f"{item.a}{item.b}")


def parts_of_an_item(items: list[dict[str, str]]):
    with dsl.ParallelFor(items) as item:
        text(x=item.a)
        text(x=item.b)


def loop_over_output():
    with dsl.ParallelFor(texts().output) as item:
        text(x=item)


@dsl.pipeline
def inner_default(x: str = "inner", y: str = "y"):
    text(x=x)
    text(x=y)


def shadowed(x: str = "outer"):
    inner_default(y=x)


def not_shadowed(x: str = "outer"):
    inner_default(x=x, y=x)


@dsl.pipeline
def inner_artifact(data: dsl.Input[dsl.Dataset], x: str = "x"):
    use(data=data)


def nested_artifact_only():
    inner_artifact(data=make().output)


def nested_artifact_and_parameter():
    inner_artifact(data=make().output, x="1")


def exit_handler_with_artifact():
    data = make()
    with dsl.ExitHandler(text()):
        use(data=data.output)


def pipeline_with_artifact(data: dsl.Input[dsl.Dataset]):
    use(data=data)


def optional_parameter(x: Optional[str] = None):  # noqa: UP045
    text(x=x)


def optional_integer():
    maybe_count()


def quoted_condition(x: str = "a"):
    with dsl.If(x == "it's"):
        text()


def backslash_condition(x: str = "a"):
    with dsl.If(x == "a\\b"):
        text()


def plain_conditions(x: str = "a", n: int = 1, share: float = 0.5, on: bool = True):
    with dsl.If(x == "a and (b) == 'no".replace("'", "")):
        text()
    with dsl.If(n > -3):
        text()
    with dsl.Elif(share <= 0.25):
        text()
    with dsl.Else():
        text()
    with dsl.If(on == True):  # noqa: E712 - this is how kfp spells it
        text()


def ignores_failures():
    text(x=text().output).ignore_upstream_failure()


def python3_argument():
    text(x="/opt/python3.11/bin")


def python3_default(path: str = "python3"):
    text(x=path)


def python3_in_items():
    with dsl.ParallelFor(["python3"]) as item:
        text(x=item)


def expanded():
    text(x="literally {{$}}")


def create_time():
    text(x=dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER)


def job_name():
    text(x=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)


def long_text():
    text(x="a" * 20_000)


def huge_text():
    text(x="a" * 120_000)


def imports_s3():
    use(data=dsl.importer(artifact_uri="s3://bucket/table", artifact_class=dsl.Dataset).output)


def imports_file():
    use(data=dsl.importer(artifact_uri="file:///data/table", artifact_class=dsl.Dataset).output)


def imports_path():
    use(data=dsl.importer(artifact_uri="/data/table", artifact_class=dsl.Dataset).output)


def fifteen_steps():
    for _ in range(15):
        text()


def fourteen_steps():
    for _ in range(14):
        text()


def nested_cached():
    inner_default(x="1", y="2")


def retried():
    text().set_retry(3)


def with_secret():
    kubernetes.use_secret_as_env(text(), "keys", {"key": "KEY"})


def step_of(step):
    def pipeline():
        step()

    pipeline.__name__ = step.name.replace("-", "_")
    return pipeline


def compiled(function, tmp_path, config=None) -> Compiled:
    target = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(dsl.pipeline(name=function.__name__.replace("_", "-"), pipeline_config=config)(function), str(target))
    return Compiled.load(target)


ERROR, WARNING, NOTE = Level.ERROR, Level.WARNING, Level.NOTE


@pytest.mark.parametrize(
    ("function", "rule", "level", "place"),
    [
        (branches_over_cached, "oneof-cached", ERROR, "root/condition-branches-1"),
        (branches_of_artifacts, "oneof-artifacts", WARNING, "root/condition-branches-1"),
        (loop_with_outer_output, "loop-outer-output", ERROR, "root/for-loop-2: text-Output"),
        (loop_over_named_output, "loop-named-output", WARNING, "root/for-loop-1: names"),
        (shadowed, "shadowed-default", ERROR, "root/inner-default: x"),
        (nested_artifact_only, "nested-artifacts-only", WARNING, "root/inner-artifact"),
        (exit_handler_with_artifact, "exit-handler-artifact", WARNING, "root/exit-handler-1"),
        (pipeline_with_artifact, "pipeline-artifact-input", ERROR, "root: data"),
        (optional_parameter, "optional-without-default", WARNING, "root: x"),
        (optional_integer, "optional-without-default", WARNING, "step maybe-count: count"),
        (quoted_condition, "condition-quote", ERROR, "root/condition-1"),
        (backslash_condition, "condition-quote", ERROR, "root/condition-1"),
        (python3_argument, "python3-text", ERROR, "root/text: x"),
        (python3_default, "python3-text", ERROR, "root: path"),
        (python3_in_items, "python3-text", ERROR, "root/for-loop-2: items"),
        (expanded, "expanded-text", ERROR, "root/text: x"),
        (create_time, "unknown-placeholder", WARNING, "root/text: x"),
        (long_text, "big-constant", WARNING, "root/text: x"),
        (huge_text, "big-constant", ERROR, "root/text: x"),
        (step_of(latest), "moving-image", WARNING, "step latest"),
        (step_of(untagged), "moving-image", WARNING, "step untagged"),
        (step_of(contained), "container-component", WARNING, "step contained"),
        (step_of(targeted), "target-image", WARNING, "step targeted"),
        (step_of(installs_kfp), "pip-install", WARNING, "step installs-kfp"),
        (step_of(installs_polars), "pip-install", WARNING, "step installs-polars"),
        (step_of(sliced), "sliced-metrics", ERROR, "step sliced: metrics"),
        (imports_s3, "importer-remote", WARNING, "step importer"),
        (imports_file, "importer-file", WARNING, "step importer"),
        (fifteen_steps, "many-steps", NOTE, "root"),
        (nested_cached, "nested-cache", NOTE, "root/inner-default/text and 1 more"),
        (retried, "retry", NOTE, "root/text"),
        (with_secret, "kubernetes-options", NOTE, "pipeline"),
        (ignores_failures, "ignored-failure-output", WARNING, "root/text-2: x"),
    ],
)
def test_a_hazard_is_found_with_its_place_and_a_remedy(function, rule, level, place, tmp_path):
    found = [finding for finding in check(compiled(function, tmp_path)) if finding.rule == rule]
    assert [finding.level for finding in found] == [level]
    assert found[0].place.startswith(place)
    assert found[0].why
    assert found[0].remedy


@pytest.mark.parametrize(
    "function",
    [
        branches_over_uncached,
        loop_with_outer_parameter,
        loop_over_output,
        parts_of_an_item,
        not_shadowed,
        nested_artifact_and_parameter,
        plain_conditions,
        job_name,
        imports_path,
        fourteen_steps,
    ],
)
def test_a_clean_pipeline_has_no_error_and_no_warning(function, tmp_path):
    assert [finding for finding in check(compiled(function, tmp_path)) if finding.level is not NOTE] == []


def test_every_input_that_reads_what_is_not_there_is_found(tmp_path):
    found = [finding.place for finding in check(compiled(two_parts_of_an_item_in_one_text, tmp_path)) if finding.rule == "dangling-input"]
    assert found == ["root/for-loop-1: items-loop-item-subvar-a", "root/for-loop-1: items-loop-item-subvar-b"]


def test_a_workspace_is_noted(tmp_path):
    pipeline = compiled(retried, tmp_path, dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="1Gi")))
    assert "workspace" in {finding.rule for finding in check(pipeline)}


def edited(function, tmp_path, edit) -> Compiled:
    """A compiled pipeline changed by hand, into what kfp 2.17 does not write and other tools may."""
    pipeline = compiled(function, tmp_path)
    edit(pipeline.spec)
    return pipeline


def environment_from_parameter(spec):
    spec["deploymentSpec"]["executors"]["exec-text"]["container"]["env"] = [{"name": "A", "value": "{{$.inputs.parameters['x']}}"}]


def artifact_loop(spec):
    spec["root"]["dag"]["tasks"]["text"]["artifactIterator"] = {"itemInput": "x", "items": {"inputArtifact": "y"}}


def infinite_default(spec):
    spec["root"]["inputDefinitions"] = {"parameters": {"x": {"parameterType": "NUMBER_DOUBLE", "defaultValue": float("inf")}}}


def long_command(spec):
    spec["deploymentSpec"]["executors"]["exec-text"]["container"]["command"].append("a" * 131_072)


def embedded_archive(spec):
    spec["deploymentSpec"]["executors"]["exec-text"]["container"]["command"].append("__KFP_EMBEDDED_ARCHIVE_B64 = ''")


@pytest.mark.parametrize(
    ("edit", "rule", "level"),
    [
        (environment_from_parameter, "env-from-parameter", ERROR),
        (artifact_loop, "loop-artifacts", ERROR),
        (infinite_default, "not-finite", ERROR),
        (long_command, "long-argument", ERROR),
        (embedded_archive, "embedded-files", NOTE),
    ],
)
def test_what_other_tools_write_is_found_too(edit, rule, level, tmp_path):
    assert [finding.level for finding in check(edited(retried, tmp_path, edit)) if finding.rule == rule] == [level]


@pytest.mark.parametrize("pipeline", pipelines.every(), ids=lambda pipeline: pipeline.name)
def test_our_own_pipelines_have_no_error_and_no_warning(pipeline):
    assert [finding for finding in check(Compiled.load(pipeline.yaml)) if finding.level is not NOTE] == []


def test_an_error_ends_with_1_and_anything_less_with_0(tmp_path, capsys):
    for function, code in [(shadowed, 1), (imports_s3, 0)]:
        target = tmp_path / f"{function.__name__}.yaml"
        compiler.Compiler().compile(dsl.pipeline(function), str(target))
        assert main(["lint", str(target)]) == code
    said = capsys.readouterr().out
    assert "error root/inner-default: x (shadowed-default)" in said
    assert "do: pass the parameter, or rename one of the two" in said


def test_findings_are_json_for_programs(tmp_path, capsys):
    target = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(dsl.pipeline(imports_s3), str(target))
    main(["lint", "--json", str(target)])
    found = json.loads(capsys.readouterr().out)[str(target)]
    assert found[0]["rule"] == "importer-remote"
    assert found[0]["level"] == "warning"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.yaml", None, "No such file"),
        ("broken.yaml", "a: [", "not valid YAML"),
        ("other.yaml", "a: 1", "not a compiled pipeline of KFP v2"),
        ("binary.yaml", b"\xff\xfe\x00", "not a text file"),
        ("pipeline.py", "", "compile it first: kfp-foundry compile"),
    ],
)
def test_a_file_that_is_no_pipeline_is_refused_in_one_line(name, content, message, tmp_path, capsys):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["lint", str(file)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
