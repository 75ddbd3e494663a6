"""Patience with networks: what may pass is tried again a few times, and what a store says is put into our words."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import tenacity

from kfp_foundry.components.common.errors import DataError, FoundryError, PlatformError
from kfp_foundry.components.common.masking import mask_address

ATTEMPTS = 5
PAUSE = 0.3  # seconds, doubled at each attempt, of which a random part is waited
REFUSALS = ("NoCredentialsError", "PartialCredentialsError", "RefreshError", "DefaultCredentialsError")
WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken")

P = ParamSpec("P")
R = TypeVar("R")


class Passing(Exception):
    """A failure of the network that may pass."""


def patient(work: Callable[P, R]) -> Callable[P, R]:
    """Tries again, a few times with growing random pauses, when the network fails: `set_retry` of KFP does not do it everywhere.

    Example:
        >>> @patient
        ... def read(address): ...  # raises Passing for what is worth another try
    """

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=PAUSE, max=20),
            retry=tenacity.retry_if_exception_type(Passing),
            reraise=True,
        )
        return retrying(work, *args, **kwargs)

    return run


def reached(work: Callable[[], R], address: str, doing: str = "read") -> R:
    """What `work` gives; an error in words when all its attempts failed.

    Args:
        work: Something that is `patient`.
        address: What it works on, for the message.
        doing: Which attempt failed, as in "could not be read".

    Raises:
        PlatformError: The place did not answer in any of the attempts.
    """
    try:
        return work()
    except Passing as error:
        raise PlatformError(
            f"could not be {doing} after {ATTEMPTS} attempts: {mask_address(str(error))}", where=mask_address(address), remedy="try again later"
        ) from error


class Translated:
    """Turns a store's errors into ours: what is not there, what is refused, and what may pass.

    Example:
        >>> with Translated("s3://lake/t.csv"):
        ...     system.open("lake/t.csv")
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, (FoundryError, Passing)):
            return
        if isinstance(error, OSError) and error.errno in (28, 30):  # no space, read-only: ours, not the network's
            return
        where = mask_address(self.address)
        name = type(error).__name__
        if isinstance(error, FileNotFoundError) or "NoSuchBucket" in str(error):
            raise DataError("there is no such file or folder", where=where, remedy="check the address") from error
        if isinstance(error, PermissionError) or name in REFUSALS or any(word in str(error) for word in WRONG_KEYS):
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL for another store), or the store's own variables"
            raise PlatformError("the store refuses: no or wrong credentials", where=where, remedy=remedy) from error
        if isinstance(error, (OSError, TimeoutError)) or "botocore" in type(error).__module__ or "aiohttp" in type(error).__module__:
            raise Passing(f"{name}: {mask_address(str(error))[:200]}") from error
