"""What `drift doctor` finds in a pod that is made for a moment, or why the cluster does not start it."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from components._images import IMAGES
from drift.config.chain import Config
from drift.ground.errors import ConfigError
from drift.ground.findings import Finding, Noted, find
from pipelines.cluster.api import Refused, api, ask
from pipelines.cluster.pod import MAIN, Body, placement_of, pod_of
from pipelines.placement import Resources

logger = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds until a pod must have ended: an image of some gigabytes may have to come first."""
STUCK = 15.0
"""Seconds that a warning may stand before it is taken for the answer: some pass, such as a volume just made."""
HOPELESS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}
COMING = {"TriggeredScaleUp", "Nominated"}
"""Events of the cluster's autoscaler, or Karpenter: a node is on its way."""


def examine_in_pod(
    role: str, config: Config, resources: Resources, namespace: str, service_account: str | None
) -> list[Finding]:
    """What `drift doctor` finds in a pod of the role, each check named after it; one finding if the pod fails.

    The pod is deleted again. Where this user may make no pods that is a note; where the cluster takes no such pod, the
    steps' would be refused too, and it is a problem.
    """
    found: list[Finding] = []

    def look() -> str:
        found.extend(_ran(role, pod_of(role, config, resources, service_account), namespace))
        return IMAGES[role]

    pod, gpus = find(f"{role} pod", look), placement_of(role, resources).gpus
    return [pod, *(_seen_in(role, gpus, one) for one in found)]


def _seen_in(role: str, gpus: int, found: Finding) -> Finding:
    """The finding, named after the role; GPUs that the profile gives and torch does not see are a problem."""
    missing = found.check == "GPU" and found.state == "note" and gpus > 0
    return Finding(f"{role} pod: {found.check}", "problem" if missing else found.state, found.detail)


def _ran(role: str, pod: Body, namespace: str) -> list[Finding]:
    """The findings in the log of the pod, which is made and deleted here."""
    core, name = api(), pod["metadata"]["name"]
    _make(core, pod, namespace)
    try:
        _Watch(core, role, name, namespace).wait()
        log = ask(core.read_namespaced_pod_log, name, namespace, container=MAIN, _preload_content=False)
        return _findings(role, log.data.decode(errors="replace"))
    finally:
        ask(core.delete_namespaced_pod, name, namespace)


def _make(core: Any, pod: Body, namespace: str) -> None:
    try:
        made = ask(core.create_namespaced_pod, namespace, pod)
    except Refused as refusal:
        if refusal.is_of_the_asker or refusal.status >= 500:
            raise
        raise ConfigError(f"{refusal}; the steps' pods would be refused too: correct the profile") from None
    if made is None:
        raise ConfigError(f"the cluster has no namespace '{namespace}'; name the steps' own with --namespace")


@dataclass
class _Watch:
    """A pod on its way to the end of its container; a sidecar may go on."""

    core: Any
    role: str
    name: str
    namespace: str
    begun: float = field(default_factory=time.monotonic)
    warned: float | None = None
    """When the cluster first gave a reason why it does not start."""

    def wait(self) -> None:
        """Raises ConfigError if the pod cannot start, or takes too long."""
        while not _ended(status := self._status()):
            reason = _reason(status)
            if reason.partition(":")[0] in HOPELESS:
                raise self._hopeless(reason, f"correct DRIFT_IMAGE_{self.role.upper()} or the profile")
            if not _started(status):
                self._heed(self._events())
            if time.monotonic() - self.begun > PATIENCE:
                waiting = reason or status.phase
                raise ConfigError(f"not ended after {PATIENCE:.0f} s ({waiting}); is there room for it?")
            time.sleep(1)

    def _status(self) -> Any:
        pod = ask(self.core.read_namespaced_pod_status, self.name, self.namespace)
        if pod is None:
            raise ConfigError("the pod is gone before it ended; see the events of the namespace")
        return pod.status

    def _heed(self, events: list[Any]) -> None:
        """Say why the pod waits, once, and give up when that has not changed for a while."""
        warnings = [event for event in events if event.type == "Warning"]
        if not warnings or any(event.reason in COMING for event in events):
            self.warned = None
            return
        said = f"{warnings[-1].reason}: {' '.join((warnings[-1].message or '').split())}"
        if self.warned is None:
            self.warned = time.monotonic()
            logger.warning("the pod of %s waits: %s", self.role, said)
        elif time.monotonic() - self.warned > STUCK:
            raise self._hopeless(said, "correct the profile, or make room on the cluster")

    def _events(self) -> list[Any]:
        """The pod's, oldest first; none where this user may not read them."""
        try:
            found = ask(
                self.core.list_namespaced_event, self.namespace, field_selector=f"involvedObject.name={self.name}"
            )
        except Noted:
            return []
        return list(found.items) if found else []

    def _hopeless(self, reason: str, remedy: str) -> ConfigError:
        return ConfigError(f"the pod does not start ({reason}); {remedy}")


def _main(status: Any) -> Any:
    return next((one.state for one in status.container_statuses or () if one.name == MAIN), None)


def _ended(status: Any) -> bool:
    return bool((state := _main(status)) and state.terminated)


def _started(status: Any) -> bool:
    return bool((state := _main(status)) and state.running)


def _reason(status: Any) -> str:
    """Why it has not begun: of its container, or of the scheduler; '' if it is at work."""
    if (state := _main(status)) and state.waiting:
        return f"{state.waiting.reason}: {state.waiting.message or ''}"
    return next((f"{one.reason}: {one.message}" for one in status.conditions or () if one.status == "False"), "")


def _findings(role: str, log: str) -> list[Finding]:
    start = log.find('{\n  "findings"')
    if start < 0:
        said = (log.strip().splitlines() or ["nothing"])[-1]
        raise ConfigError(f"its image {IMAGES[role]} says '{said:.200}', and not what it has; build it anew")
    found, _ = json.JSONDecoder().raw_decode(log, start)
    return [Finding(**one) for one in found["findings"]]
