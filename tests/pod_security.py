"""The rules of Pod Security `restricted`, in the words of Kubernetes' page "Pod Security Standards".

What breaks a rule is named as Kubernetes' own admission names it, so that a refusal can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
PROFILES = {"RuntimeDefault", "Localhost"}
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip


def refusals(pod: Body) -> set[str]:
    """Why a namespace that enforces `restricted` would refuse a pod's specification; empty if it would not."""
    context = pod.get("securityContext", {})
    found = {reason for container in _containers(pod) for reason in _of_container(container, context)}
    return found | set(_of_pod(pod, context))


def _containers(pod: Body) -> list[Body]:
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind, [])]


def _of_pod(pod: Body, context: Body) -> Iterator[str]:
    for volume in pod.get("volumes", []):
        if kinds := set(volume) - {"name"} - VOLUMES:
            yield f"restricted volume types: {volume['name']} uses {', '.join(sorted(kinds))}"
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "host namespaces"
    if context.get("runAsUser") == 0:
        yield "runAsUser=0"
    if {one["name"] for one in context.get("sysctls", [])} - SYSCTLS:
        yield "forbidden sysctls"


def _of_container(container: Body, pod: Body) -> Iterator[str]:
    own = container.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation != false"
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "unrestricted capabilities"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot != true"
    if own.get("runAsUser") == 0:
        yield "runAsUser=0"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in PROFILES:
        yield "seccompProfile"
    if own.get("privileged") or own.get("procMount", "Default") != "Default":
        yield "privileged"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "host ports"
