"""Names and digests of remote objects: the same input, the same name, so that a retried step finds what it has started."""

import hashlib
import json
import re
from typing import Any

LIMIT = 40  # Katib's own limit, and what leaves room for the suffixes of a TrainJob's pods within 63 characters
DIGEST_LENGTH = 10


def object_name(prefix: str, *parts: str, limit: int = LIMIT) -> str:
    """A name that the API server takes (RFC 1035), readable at its start and unique by its end.

    Args:
        prefix: What a person reads; cut when it is too long.
        parts: What tells this object from every other one.
        limit: The longest that the name may be.

    Example:
        >>> object_name("Train model", "minio://bucket/run-1/model")
        'train-model-0837badb97'
    """
    unique = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:DIGEST_LENGTH]
    words = re.sub(r"[^a-z0-9]+", "-", prefix.lower()).strip("-") or "job"
    readable = words if words[0].isalpha() else f"x{words}"
    return f"{readable[: limit - DIGEST_LENGTH - 1].rstrip('-')}-{unique}"


def digest(spec: Any) -> str:
    """A short digest of a spec, whatever the order of its keys: two launches of the same spec are told from others by it.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(spec, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
