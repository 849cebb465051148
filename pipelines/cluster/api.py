"""Kubernetes' own client, and its answers: what is not there, what the cluster refuses and why."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

from drift.ground.findings import Noted

SECONDS = 5
NO_RIGHT = re.compile(r'User "[^"]*" cannot \w+ resource')
"""As Kubernetes' authorizers say it; what refuses a thing itself (Pod Security, a quota, a webhook) says otherwise."""


class Refused(Noted):
    """The cluster's answer to what it does not do: its status and its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the cluster answers {status} {message}")
        self.status, self.message = status, message

    @property
    def is_of_the_asker(self) -> bool:
        """Whether it is the right of who asks that is missing, and not the thing asked for that is wrong."""
        return self.status == 401 or (self.status == 403 and bool(NO_RIGHT.search(self.message)))


def api(kind: str = "CoreV1Api", *, account: str | None = None) -> Any:
    """Kubernetes' own client, by the kubeconfig or from inside a pod. Raises Noted without either.

    With ``account``, `NAMESPACE:NAME`, it asks in the name of that service account.
    """
    from kubernetes import client, config

    try:
        config.load_kube_config(os.environ.get("KUBECONFIG"))
    except config.ConfigException:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            raise Noted("no cluster: neither a kubeconfig nor a pod's service account here") from None
    settings = client.Configuration.get_default_copy()
    settings.retries = False
    connection = client.ApiClient(settings)
    if account:
        connection.set_default_header("Impersonate-User", f"system:serviceaccount:{account}")
    return getattr(client, kind)(connection)


def ask(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The cluster's answer; None if there is no such thing. Raises Refused, or Noted if it does not answer."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return call(*arguments, **options, _request_timeout=SECONDS)
    except ApiException as error:
        if error.status == 404:
            return None
        raise Refused(error.status, f"{error.reason}{_message(error)}") from None
    except HTTPError as error:
        raise Noted(f"the cluster does not answer ({type(error).__name__})") from None


def _message(error: Any) -> str:
    """What a Status says; a proxy in between may answer with anything."""
    try:
        said = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        return ""
    return f": {said}"
