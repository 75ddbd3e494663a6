"""The fields that an API server knows of a kind, from its OpenAPI v3 document."""

from typing import Any

from kfp_foundry.components.common.kube.kinds import Kind, Object


def paths(document: Object, kind: Kind) -> frozenset[str]:
    """All fields of a kind as dotted paths; the items of a list have the path of the list.

    Args:
        document: What `/openapi/v3/apis/GROUP/VERSION` answers.
        kind: The kind.

    Example:
        >>> "spec.runtimePatches.manager" in paths(document, TRAINJOB)
        True
    """
    schemas = (document.get("components") or {}).get("schemas") or {}
    wanted = {"group": kind.group, "kind": kind.kind, "version": kind.version}
    found: set[str] = set()
    for name, schema in schemas.items():
        if wanted in (schema.get("x-kubernetes-group-version-kind") or []):
            _walk(schema, "", schemas, frozenset({name}), found)
    return frozenset(found)


def _walk(schema: Object, at: str, schemas: Object, inside: frozenset[str], found: set[str]) -> None:
    reference = str(schema.get("$ref") or "").rpartition("/")[2]
    if reference:
        if reference not in inside:  # a schema that contains itself
            _walk(schemas.get(reference) or {}, at, schemas, inside | {reference}, found)
        return
    parts: list[Any] = [*(schema.get("allOf") or []), schema.get("items")]
    for part in parts:
        if isinstance(part, dict):
            _walk(part, at, schemas, inside, found)
    for name, child in (schema.get("properties") or {}).items():
        path = f"{at}.{name}" if at else name
        found.add(path)
        _walk(child, path, schemas, inside, found)
