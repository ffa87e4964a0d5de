"""The Helm chart, rendered by Helm's own library, and the examples: what Kubernetes takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
from click.testing import CliRunner

from aotcache.cli import cli
from aotcache_service.commands.serve import serve
from aotcache_service.commands.token import token
from support.charted import CHART, EXAMPLES, containers, example, pods, rendered

OLDEST, NEWEST = "1.29", "1.37"  # the chart's kubeVersion, and the newest there are schemas of

LEAST: dict[str, Any] = {
    "storage": {"url": "s3://bucket/store"},
    "database": {"secret": "aotcache-database"},
    "adminToken": {"secret": "aotcache-admin"},
}
ALL: dict[str, Any] = {
    **LEAST,
    "storage": {
        "url": "s3://bucket/store",
        "endpoint": "https://s3.example",
        "publicEndpoint": "https://s3.public.example",
        "secret": "s3-keys",
    },
    "tokens": [
        {"name": "a", "secret": "a", "key": "token", "scope": "read", "namespaces": ["x", "y"]}
    ],
    "imagePullSecrets": [{"name": "registry"}],
    "autoscaling": {"enabled": False},
    "gc": {"enabled": False, "keepBytes": 10**13, "keepDays": 90},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "tlsSecret": "tls",
        "annotations": {"a": "b"},
    },
    "networkPolicy": {"from": [{"namespaceSelector": {}}], "egress": [{"to": []}]},
    "serviceAccount": {"annotations": {"role": "arn"}},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "watcher": {
        "enabled": True,
        "token": {"secret": "publish"},
        "signingKey": {"secret": "key"},
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
    },
}


EVERYTHING = {
    "least": lambda: rendered(LEAST),
    "all": lambda: rendered(ALL),
    **{path.stem: lambda path=path: example(path) for path in EXAMPLES},
}


@pytest.mark.parametrize("what", EVERYTHING)
def test_kubernetes_would_take_it(what: str) -> None:
    documents = EVERYTHING[what]()
    for document in documents:
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(document, version, strict=True)
    assert len({(one["kind"], one["metadata"]["name"]) for one in documents}) == len(documents)


@pytest.mark.parametrize("what", EVERYTHING)
def test_pods_are_restricted(what: str) -> None:
    """As the Pod Security Standard `restricted` has it; a host's directory alone is more."""
    found = list(pods(EVERYTHING[what]()))
    assert found
    for name, pod in found:
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            if "aotcache-service" in container["image"] or "aotcache-node" in container["image"]:
                assert context["readOnlyRootFilesystem"] is True
                assert container["resources"]["limits"]["memory"]
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounted <= {volume["name"] for volume in pod["volumes"]}
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        allowed = {"emptyDir", "secret", "projected"}
        assert kinds <= (allowed | {"hostPath"} if name == "aotcache-watcher" else allowed)


def test_what_a_fleet_needs_is_there() -> None:
    kinds = sorted(document["kind"] for document in rendered(LEAST))
    assert kinds == [
        "CronJob",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ]
    more = {document["kind"] for document in rendered(ALL)} - set(kinds)
    assert more == {"DaemonSet", "Ingress"}


@pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])
def test_selectors_name_the_pods_they_are_for(values: dict[str, Any]) -> None:
    by_kind = {document["kind"]: document for document in rendered(values)}
    service = by_kind["Deployment"]["spec"]
    labels = service["template"]["metadata"]["labels"]
    for selector in (
        service["selector"]["matchLabels"],
        by_kind["Service"]["spec"]["selector"],
        by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    (container,) = service["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert by_kind["Service"]["spec"]["ports"][0]["targetPort"] in ports
    for probe, path in (("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "http"}
    others = [one for one in rendered(values) if one["kind"] in ("CronJob", "DaemonSet")]
    for one in others:
        spec = one["spec"].get("jobTemplate", {}).get("spec", one["spec"])
        assert (
            spec["template"]["metadata"]["labels"].items()
            >= {"app.kubernetes.io/instance": "aotcache"}.items()
        )
        assert (
            not service["selector"]["matchLabels"].items()
            <= spec["template"]["metadata"]["labels"].items()
        )


@pytest.mark.parametrize(
    ("endpoint", "secret", "ports"),
    [
        ("", "", {53, 80, 443, 5432}),  # 80: where a cloud tells pods who they are
        ("", "s3-keys", {53, 443, 5432}),
        ("http://minio.example:9000", "s3-keys", {53, 443, 5432, 9000}),
        ("http://s3.example/path", "s3-keys", {53, 80, 443, 5432}),
    ],
)
def test_the_service_reaches_what_it_needs(endpoint: str, secret: str, ports: set[int]) -> None:
    storage = {"url": "s3://bucket/store", "endpoint": endpoint, "secret": secret}
    documents = rendered({**LEAST, "storage": storage})
    (policy,) = (one["spec"] for one in documents if one["kind"] == "NetworkPolicy")
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == ports
    for document in documents:
        kubernetes_validate.validate(document, OLDEST, strict=True)
    (own,) = [rule for rule in policy["egress"] if "to" in rule] if not secret else [{"to": ()}]
    assert all(peer["ipBlock"]["cidr"].startswith("169.254.") for peer in own["to"])


@pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])
def test_no_secret_is_in_what_is_rendered(values: dict[str, Any]) -> None:
    for _, pod in pods(rendered(values)):
        for container in containers(pod):
            for variable in container.get("env", ()):
                secret = any(word in variable["name"] for word in ("DATABASE_URL", "ACCESS_KEY"))
                assert ("valueFrom" in variable) == secret, variable["name"]


@pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])
def test_our_commands_take_these_arguments(values: dict[str, Any]) -> None:
    """Each option in the chart is one that the command has, each variable one that it reads."""
    commands = {"serve": serve, "token": token.commands["adopt"]}
    for _, pod in pods(rendered(values)):
        for container in containers(pod):
            name, *words = container["args"]
            if name == "token":
                assert words.pop(0) == "adopt"
            command = commands.get(name) or cli.get_command(None, name)  # type: ignore[arg-type]
            options = {option for one in command.params for option in one.opts}
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            assert given <= options, container["name"]
            read = {one.envvar for one in command.params} | {"AOTCACHE_TOKEN_FILE"}
            ours = {one["name"] for one in container["env"] if one["name"].startswith("AOTCACHE_")}
            assert ours <= read, container["name"]


def test_the_service_starts_beside_a_service_of_its_own_name(tmp_path: Path) -> None:
    """Where `enableServiceLinks` is not off, as in a pod of one's own."""
    env = {"AOTCACHE_PORT": "tcp://10.96.0.17:8750", "AOTCACHE_SERVICE_HOST": "10.96.0.17"}
    words = ["--data-dir", str(tmp_path), "--host", "192.0.2.1"]
    done = CliRunner().invoke(serve, words, env=env)
    assert "--host 192.0.2.1: there is no token" in done.output


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "/storage/url"),
        ({**LEAST, "database": {"secret": ""}}, "/database/secret"),
        ({**LEAST, "storage": {"url": "/var/lib"}}, "/storage/url"),
        ({**LEAST, "replica": 3}, "replica"),
        ({**LEAST, "gc": {"graceHours": 1}}, "/gc/graceHours"),
        ({**LEAST, "tokens": [{"name": "a"}]}, "/tokens/0"),
        ({**LEAST, "tokens": [{**ALL["tokens"][0], "name": "admin"}]}, "/tokens/0/name"),
        ({**LEAST, "watcher": {"enabled": True}}, "watcher.token.secret"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(helm.HelmError, match=why):
        rendered(values)


def test_helm_has_nothing_to_say() -> None:
    found = helm.lint(str(CHART), values=ALL)
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]
