"""One HTTP request to an API server, with credentials that are read anew when they have been rotated."""

import json
import re
import ssl
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.kube.credentials import Access
from kfp_foundry.components.common.kube.kinds import Object
from kfp_foundry.components.common.kube.refusals import Answer

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from urllib3 import BaseHTTPResponse, Timeout


class Refused(Exception):
    """An answer that is no success; it never leaves this package."""

    def __init__(self, answer: Answer, retry_after: float = 0.0) -> None:
        super().__init__(f"HTTP {answer.status} {answer.message}")
        self.answer = answer
        self.retry_after = retry_after


class Transport:
    """A pool of connections to an API server.

    Args:
        access: Where the server is and who we are.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._client = self._connect()

    def _connect(self) -> "ApiClient":
        from kubernetes.client import ApiClient

        configuration = self._access.configure()
        configuration.retries = False  # `Cluster` has its own table of what is tried again
        return ApiClient(configuration)

    def send(
        self, method: str, path: str, *, query: Mapping[str, str], body: Object | None, timeout: "Timeout", stream: bool = False
    ) -> "BaseHTTPResponse":
        """One request; after a 401 once more with credentials read anew.

        Args:
            method: HTTP method.
            path: From `/api` on.
            query: Query parameters.
            body: Sent as JSON; a merge patch for PATCH.
            timeout: For connecting and for each read.
            stream: Leave the body unread.

        Raises:
            Refused: The server answered, and not with success.
            OSError: No answer.
            PlatformError: The server's certificate is not trusted, or the token cannot be sent.
        """
        client = self._client
        try:
            return self._once(client, method, path, query, body, timeout, stream)
        except Refused as refusal:
            if refusal.answer.status != 401:
                raise
        with self._lock:
            if self._client is client:  # else another thread has renewed it meanwhile
                self._client = self._connect()
        return self._once(self._client, method, path, query, body, timeout, stream)

    def _once(
        self, client: "ApiClient", method: str, path: str, query: Mapping[str, str], body: Object | None, timeout: "Timeout", stream: bool
    ) -> "BaseHTTPResponse":
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json, */*"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers |= self._credentials(client)
        url = f"{client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        sent = None if body is None else json.dumps(body)
        try:
            pool = client.rest_client.pool_manager
            response: BaseHTTPResponse = pool.request(method, url, body=sent, headers=headers, timeout=timeout, preload_content=not stream)
            if response.status < 400:
                return response
            after = response.headers.get("Retry-After", "")
            raise Refused(Answer.read(response.status, response.data, response.reason), float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else 0.0)
        except HTTPError as error:
            distrust = _distrust(error)
            if distrust:
                remedy = f"check certificate-authority-data of {self._access.source}"
                raise PlatformError(distrust, where=client.configuration.host, remedy=remedy) from error
            raise ConnectionError(f"{type(error).__name__}: {error}") from error

    def _credentials(self, client: "ApiClient") -> dict[str, str]:
        """The header that says who we are; its text never gets into a message, as that of `http.client` for a bad header would."""
        from kubernetes.config import ConfigException

        headers: dict[str, str] = {}
        try:
            client.update_params_for_auth(headers, [], ["BearerToken"])
        except ConfigException as error:  # a token's file that is empty while it is rotated
            raise ConnectionError(f"{self._access.source}: {error}") from error
        if any(not value.isascii() or not value.isprintable() for value in headers.values()):
            what = "its token has a line break, or a character that no HTTP header may hold"
            raise PlatformError(what, where=self._access.source, remedy="write the token anew, without anything before or after it")
        return headers


def _distrust(error: Exception) -> str:
    """Why a connection failed for a certificate, ours or the server's, which no repetition changes; empty for another reason."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError) and cause.library in ("X509", "PEM"):
        return f"the certificates that it is to be checked by cannot be read: {cause.reason}"
    return ""
