"""What the fake API server checks before it stores an object, in the words of the real one.

Unknown fields and types by the CRD's own schema of the chosen version (`tests/recordings/schemas`, from upstream's manifests)
and by the typed models of `kubeflow-trainer-api` and `kubeflow-katib-api`; then what the webhooks refuse.
"""

import functools
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

from fake_kubernetes_faults import Answer
from fake_kubernetes_objects import Object, Objects, Resource, now

SCHEMAS = Path(__file__).parent.parent / "recordings" / "schemas"
PRESERVES = "x-kubernetes-preserve-unknown-fields"
TORCH_RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
GO_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}
INJECTED = ("node", "dataset-initializer", "model-initializer")
KATIB_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
RFC1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
EDITABLE = {"parallelTrialCount", "maxTrialCount", "maxFailedTrialCount"}
OPEN_SCHEMA = {"type": "object", PRESERVES: True, "properties": {"spec": {"type": "object", PRESERVES: True}}}


@functools.cache
def schema(plural: str, trainer: str) -> dict[str, Any]:
    """The schema of a kind as its CRD has it; open where the CRD's is (Katib's), or where we keep none."""
    file = {"trainjobs": f"trainjob-{trainer}.json", "pytorchjobs": "pytorchjob-1.9.json"}.get(plural)
    return json.loads((SCHEMAS / file).read_text()) if file else OPEN_SCHEMA


def checked(resource: Resource, body: Object, strict: bool, trainer: str, objects: Objects) -> Object:
    """The body as it is stored: refused, or with the fields gone that the server does not know."""
    rules = schema(resource.plural, trainer)
    whole = {key: value for key, value in body.items() if key not in ("metadata", "status")}
    unknown = [*_unknown(rules, whole, "")]
    if strict:
        unknown += [path for path in _unknown_to_models(resource, body, trainer) if path not in unknown]
        if unknown:
            told = ", ".join(f'unknown field "{path}"' for path in unknown)
            kind = resource.kind
            message = f'{kind} in version "{resource.version}" cannot be handled as a {kind}: strict decoding error: {told}'
            raise Answer(400, message)
    stored = _pruned(rules, whole) if rules is not OPEN_SCHEMA else whole
    _check_values(resource, rules, stored, body["metadata"].get("name", ""), trainer)
    kept = {key: body[key] for key in ("metadata", "status") if key in body}
    stored |= kept
    webhook = WEBHOOKS.get(resource.plural)
    if webhook:
        webhook(stored, objects, trainer)
    return stored


def check_change(resource: Resource, old: Object, new: Object, trainer: str) -> None:
    """Refuses a change of what cannot be changed."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    name = old["metadata"]["name"]
    if resource.plural == "experiments" and set(changed) - EDITABLE:
        why = "only spec.parallelTrialCount, spec.maxTrialCount and spec.maxFailedTrialCount are editable"
        raise Answer(400, f'admission webhook "validator.experiment.katib.kubeflow.org" denied the request: spec: Forbidden: {why}', "Forbidden")
    fields = schema(resource.plural, trainer)["properties"].get("spec", {}).get("properties", {})
    for field in changed:
        for rule in fields.get(field, {}).get("x-kubernetes-validations", []):
            if rule["rule"] == "self == oldSelf":
                type_name = GO_TYPES[type(after.get(field))]
                _invalid(resource, name, f"spec.{field}", f'Invalid value: "{type_name}": {rule["message"]}')


UNCHECKED = 'Invalid value: "null": some validation rules were not checked because the object was invalid; correct the existing errors'


def _invalid(resource: Resource, name: str, field: str, why: str, reason: str = "FieldValueInvalid", unchecked: bool = False) -> typing.NoReturn:
    """A 422; `unchecked` when further rules of the kind could not be held against a value of a wrong shape."""
    causes = [{"reason": reason, "message": why, "field": field}]
    told = f"{field}: {why}"
    if unchecked:
        rest = f"{UNCHECKED} to complete validation"
        causes.append({"reason": "FieldValueInvalid", "message": rest, "field": "<nil>"})
        told = f"[{told}, <nil>: {rest}]"
    details = {"name": name, "group": resource.group, "kind": resource.kind, "causes": causes}
    raise Answer(422, f'{resource.kind}.{resource.group} "{name}" is invalid: {told}', details=details)


def _unknown(rules: dict[str, Any], value: Any, path: str) -> list[str]:
    """The paths that a structural schema does not know."""
    if isinstance(value, list):
        return [found for i, item in enumerate(value) for found in _unknown(rules.get("items", {}), item, f"{path}[{i}]")]
    if not isinstance(value, dict) or rules.get(PRESERVES):
        return []
    known, further = rules.get("properties"), rules.get("additionalProperties")
    if known is None and further is None:
        return []
    found = []
    for key, item in value.items():
        below = f"{path}.{key}" if path else key
        if known is not None and key in known:
            found += _unknown(known[key], item, below)
        elif isinstance(further, dict):
            found += _unknown(further, item, below)
        else:
            found.append(below)
    return found


def _pruned(rules: dict[str, Any], value: Any) -> Any:
    """A value without what the schema does not know, as the real server stores it when it is not strict."""
    if isinstance(value, list):
        return [_pruned(rules.get("items", {}), item) for item in value]
    if not isinstance(value, dict) or rules.get(PRESERVES):
        return value
    known, further = rules.get("properties"), rules.get("additionalProperties")
    if known is None and further is None:
        return value
    kept = {key: _pruned(known[key], item) for key, item in value.items() if known and key in known}
    if isinstance(further, dict):
        kept |= {key: _pruned(further, item) for key, item in value.items() if key not in kept}
    return kept


def _check_values(resource: Resource, rules: dict[str, Any], body: Object, name: str, trainer: str) -> None:
    from jsonschema import Draft7Validator

    defaulted = resource.plural == "trainjobs" and trainer in ("2.2", "2.3")  # a webhook reads it before the schema is held against it

    ruled = "x-kubernetes-validations" in rules
    for error in sorted(Draft7Validator(rules).iter_errors(body), key=lambda e: list(map(str, e.path))):
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path).lstrip(".")
        if error.validator == "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            _invalid(resource, name, f"{field}.{missing}".lstrip("."), "Required value", "FieldValueRequired", ruled)
        if error.validator == "pattern" and not defaulted:
            why = f"Invalid value: {json.dumps(error.instance)}: {field} in body should match '{error.validator_value}'"
            _invalid(resource, name, field, why)
        if error.validator == "pattern":
            why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            _denied("defaulter.trainjob.trainer.kubeflow.org", why, 400)
        if error.validator == "type":
            told, wanted = GO_TYPES[type(error.instance)], error.schema.get("format", error.validator_value)
            if defaulted:
                struct = str(error.path[-2]).capitalize() if len(error.path) > 1 else ""
                why = f"json: cannot unmarshal {told} into Go struct field {struct}.{field} of type {wanted}"
                _denied("defaulter.trainjob.trainer.kubeflow.org", why, 400)
            why = f'Invalid value: "{told}": {field} in body must be of type {error.validator_value}: "{told}"'
            _invalid(resource, name, field, why, "FieldValueTypeInvalid", ruled)
        _invalid(resource, name, field, f"Invalid value: {json.dumps(error.instance)}: {error.message}")


# -- the typed models ------------------------------------------------------------------------------------------------------


def _unknown_to_models(resource: Resource, body: Object, trainer: str) -> list[str]:
    """The paths that the typed models do not know; they are those of Trainer 2.3, Katib 0.19 and Kubernetes 1.33."""
    import kubeflow_trainer_api.models as typed

    if resource.plural == "trainjobs" and trainer in ("2.2", "2.3"):
        return _strangers(typed.TrainerV1alpha1TrainJob, body, "")
    if resource.plural == "experiments":
        import kubeflow_katib_api.models as katib

        trial = ((body.get("spec") or {}).get("trialTemplate") or {}).get("trialSpec") or {}
        where = "spec.trialTemplate.trialSpec"
        return _strangers(katib.V1beta1ExperimentSpec, body.get("spec"), "spec") + [f"{where}.{path}" for path in _unknown_in_trial(trial, trainer)]
    if resource.plural == "jobs":
        return _strangers(typed.IoK8sApiBatchV1JobSpec, body.get("spec"), "spec")
    if resource.plural == "pytorchjobs":
        replicas = (body.get("spec") or {}).get("pytorchReplicaSpecs") or {}
        paths = {name: f"spec.pytorchReplicaSpecs.{name}.template" for name in replicas}
        return [p for name, path in paths.items() for p in _strangers(typed.IoK8sApiCoreV1PodTemplateSpec, replicas[name].get("template"), path)]
    return []


def _unknown_in_trial(trial: Object, trainer: str) -> list[str]:
    kinds = {
        ("batch/v1", "Job"): "jobs",
        ("trainer.kubeflow.org/v1alpha1", "TrainJob"): "trainjobs",
        ("kubeflow.org/v1", "PyTorchJob"): "pytorchjobs",
    }
    plural = kinds.get((trial.get("apiVersion", ""), trial.get("kind", "")))
    if plural is None:
        return []
    group, _, version = trial["apiVersion"].rpartition("/")
    whole = {key: value for key, value in trial.items() if key != "metadata"}
    resource = Resource(group, version, plural, trial["kind"])
    rules = schema(plural, trainer)
    found = _unknown(rules, whole, "") if rules is not OPEN_SCHEMA else []
    return found + [path for path in _unknown_to_models(resource, {**whole, "metadata": {}}, trainer) if path not in found]


def _strangers(model: Any, value: Any, path: str) -> list[str]:
    """The paths in a value that a generated pydantic model has no field for."""
    origin = typing.get_origin(model)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(model) if option is not type(None)]
        return _strangers(options[0], value, path) if len(options) == 1 else []
    if origin is typing.Annotated:
        return _strangers(typing.get_args(model)[0], value, path)
    if origin is list and isinstance(value, list):
        return [found for i, item in enumerate(value) for found in _strangers(typing.get_args(model)[0], item, f"{path}[{i}]")]
    if origin is dict and isinstance(value, dict):
        return [found for key, item in value.items() for found in _strangers(typing.get_args(model)[1], item, f"{path}.{key}")]
    if not isinstance(value, dict) or not hasattr(model, "model_fields"):
        return []
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    if "actual_instance" in fields:  # a quantity or an int-or-string: no fields of its own
        return []
    found = []
    for key, item in value.items():
        below = f"{path}.{key}" if path else key
        found += _strangers(fields[key], item, below) if key in fields else [below]
    return found


# -- webhooks --------------------------------------------------------------------------------------------------------------


def _denied(webhook: str, why: str, code: int = 403) -> typing.NoReturn:
    answer = Answer(code, f'admission webhook "{webhook}" denied the request: {why}')
    if code != 403:  # such an answer gives no reason
        answer.body.pop("reason")
    raise answer


def _admit_trainjob(body: Object, objects: Objects, trainer: str) -> None:
    hook = "validator.trainjob.trainer.kubeflow.org"
    spec, meta = body["spec"], body["metadata"]
    if not RFC1035.fullmatch(meta["name"]) or len(meta["name"]) > 63:
        resource = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
        _invalid(resource, meta["name"], "<nil>", 'Invalid value: "object": metadata.name must match RFC 1035 DNS label format')
    for i, patch in enumerate(spec.get("runtimePatches") or []):
        spec["runtimePatches"][i] = {"manager": patch["manager"], "time": now(), **patch}  # by the defaulting webhook
    spec["runtimeRef"] = ref = {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", **spec["runtimeRef"]}
    scoped = ref["kind"] == "TrainingRuntime"
    plural = "trainingruntimes" if scoped else "clustertrainingruntimes"
    runtime = Resource("trainer.kubeflow.org", "v1alpha1", plural, ref["kind"], namespaced=scoped)
    found = objects.get(runtime, meta.get("namespace", ""), ref["name"])
    if found is None:
        shown = json.dumps({"name": ref["name"], "apiGroup": ref["apiGroup"], "kind": ref["kind"]}, separators=(",", ":"))
        word = ref["kind"][0].lower() + ref["kind"][1:]
        why = f'{ref["kind"]}.trainer.kubeflow.org "{ref["name"]}" not found: specified {word} must be created before the TrainJob is created'
        field = "spec.runtimeRef" if scoped else "spec.RuntimeRef"
        _denied(hook, f"{field}: Invalid value: {shown}: {why}")
    env = (spec.get("trainer") or {}).get("env") or []
    reserved = sorted(TORCH_RESERVED & {entry["name"] for entry in env})
    if reserved:
        shown, names = json.dumps(env, separators=(",", ":")), " ".join(reserved)
        _denied(hook, f"spec.trainer.env: Invalid value: {shown}: must not have reserved envs, invalid envs configured: [{names}]")
    _check_patches(hook, spec, found, trainer)


def _check_patches(hook: str, spec: Object, runtime: Object, trainer: str) -> None:
    """What Trainer 2.2 and later refuse in `runtimePatches`, as tried: 2.3.0 lets through a job that the runtime has not."""
    known = {job["name"] for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]}
    shown = "spec.runtimePatches: Invalid value: " + json.dumps(spec.get("runtimePatches"), separators=(",", ":"))
    for patch in spec.get("runtimePatches") or []:
        if "/" not in patch["manager"] or "." not in patch["manager"].partition("/")[0]:
            why = 'must be a domain-prefixed path (such as "acme.io/foo")'
            _denied(hook, f'spec.runtimePatches.manager: Invalid value: "{patch["manager"]}": {why}')
        patched = ((patch.get("trainingRuntimeSpec") or {}).get("template") or {}).get("spec") or {}
        for job in patched.get("replicatedJobs") or []:
            pod = (((job.get("template") or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
            containers = pod.get("containers") or []
            if trainer == "2.2" and job["name"] not in known:
                _denied(hook, f"{shown}: must not have replicated job that doesn't exist in the runtime job template")
            if any(c.get("env") and c["name"] in INJECTED for c in containers):
                _denied(hook, f"{shown}: must not have envs for the dataset-initializer, model-initializer, node containers")


def _admit_experiment(body: Object, objects: Objects, trainer: str) -> None:
    hook = "validator.experiment.katib.kubeflow.org"
    spec, name = body["spec"], body["metadata"]["name"]
    if not KATIB_NAME.fullmatch(name):
        rule = "name must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and have at most 40 characters"
        _denied(hook, f'metadata.name: Invalid value: "{name}": {rule}', 400)
    most = spec.get("maxTrialCount")
    for count in ("maxFailedTrialCount", "parallelTrialCount"):
        if most is not None and spec.get(count, 0) > most:
            _denied(hook, f"spec.{count}: Invalid value: {spec[count]}: should be less than or equal to spec.maxTrialCount", 400)
    template = spec["trialTemplate"]
    shown = json.dumps(template.get("trialSpec"), separators=(",", ":"), sort_keys=True)
    known = {parameter["name"] for parameter in spec.get("parameters") or []}
    for i, parameter in enumerate(template.get("trialParameters") or []):
        if "${trialParameters." + parameter["name"] + "}" not in shown:
            why = f"parameter name: {parameter['name']} in spec.trialParameters not found in spec.trialTemplate: {shown}\n"
            _denied(hook, f'spec.trialTemplate.trialParameters[{i}].name: Invalid value: "{parameter["name"]}": {why}', 400)
        reference = parameter["reference"]
        if reference not in known and not reference.startswith("${trialSpec."):
            where = f"spec.trialTemplate.trialParameters[{i}].reference"
            _denied(hook, f'{where}: Invalid value: "{reference}": parameter reference: {reference} does not exist in spec.parameters', 400)
    unreplaced = set(re.findall(r"\$\{trialParameters\.([^}]+)\}", shown)) - {p["name"] for p in template.get("trialParameters") or []}
    if unreplaced:
        _denied(hook, f"spec.trialTemplate: Invalid value: parameters: {sorted(unreplaced)} in spec.trialTemplate not found in trialParameters", 400)


def _admit_pytorchjob(body: Object, objects: Objects, trainer: str) -> None:
    for name, replica in body["spec"]["pytorchReplicaSpecs"].items():
        containers = replica["template"]["spec"].get("containers") or []
        if all(container["name"] != "pytorch" for container in containers):
            where = f"spec.pytorchReplicaSpecs[{name}].template.spec.containers"
            why = "Required value: must have at least one container with name pytorch"
            _denied("validator.pytorchjob.training-operator.kubeflow.org", f"{where}: {why}")


WEBHOOKS = {"trainjobs": _admit_trainjob, "pytorchjobs": _admit_pytorchjob, "experiments": _admit_experiment}
