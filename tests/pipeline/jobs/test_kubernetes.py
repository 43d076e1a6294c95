"""The manifests, held to the published schemas and to what KubeRay and Kubernetes check in code."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from conf.load import SettingsError
from pipeline.jobs import kubernetes
from pipeline.jobs.kubernetes import object_name, rendered, scheduled, submitted
from pipeline.jobs.schedule import Rules
from tests.pipeline.conftest import line_settings

OPTIONS: dict[str, Any] = {"image": "registry.example/recurra:cpu", "claim": "data"}
VARIABLES = {"RECURRA_STORAGE": "/somewhere/runs", "RECURRA_TRACKING_URI": "http://mlflow:5000"}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "lines.yaml"
    path.write_text("name: lines\nno: 'on'\ntext: |\n  a\n\n  b\t# é\n", "utf8")
    return path


def a_run(conf: Path, *, options: dict[str, Any] | None = None, **changes: Any) -> str:
    given: dict[str, Any] = {
        "settings": line_settings(Path("lines.parquet")),
        "conf": [conf],
        "overrides": ["data.path=a b; rm -rf $HOME 'x' \"y\" \\ %s"],
        "variables": VARIABLES,
        "options": {**OPTIONS, **(options or {})},
    }
    return submitted("lines-0123456789ab", **{**given, **changes})


def a_schedule(
    conf: Path, *, options: dict[str, Any] | None = None, name: str = "lines", **rules: Any
) -> str:
    cron, zone = rules.pop("cron", "0 3 * * *"), rules.pop("zone", "Europe/Berlin")
    settings = rules.pop("settings", None) or line_settings(Path("lines.parquet"))
    variables = rules.pop("variables", VARIABLES)
    return scheduled(
        "lines",
        settings=settings,
        conf=[conf],
        overrides=["train.epochs=1"],
        cron=cron,
        zone=zone,
        rules=Rules(**rules),
        variables=variables,
        options={**OPTIONS, **(options or {})},
    )


def objects(text: str) -> dict[str, dict[str, Any]]:
    """By kind, as kubectl reads them: YAML 1.1."""
    found = list(yaml.safe_load_all(text))
    kinds = [f"{each['kind']} {each['metadata']['name']}" for each in found]
    assert len(set(kinds)) == len(kinds)
    by_kind = {each["kind"]: each for each in reversed(found)}
    if "CronJob" in by_kind:
        (template,) = [each for each in found if "rayjob.yaml" in each.get("data", {})]
        by_kind["RayJob"] = yaml.safe_load(template["data"]["rayjob.yaml"])
    return by_kind


def faults(found: dict[str, Any], root: Path) -> list[str]:
    """What the published schema of its kind says against it."""
    kind = found["kind"]
    if kind == "RayJob":
        schema = json.loads((root / "tests" / "schemas" / "rayjob.json").read_text("utf8"))
    else:
        schema = json.loads((root / "tests" / "schemas" / "kubernetes.json").read_text("utf8"))
        schema["$ref"] = f"#/$defs/{kind}"
    return [
        f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(found)
    ]


def pod_specs(found: Any) -> list[dict[str, Any]]:
    """The specs of all pods in an object."""
    if isinstance(found, list):
        return [spec for each in found for spec in pod_specs(each)]
    if not isinstance(found, dict):
        return []
    own = [found] if "containers" in found else []
    return own + [spec for each in found.values() for spec in pod_specs(each)]


@pytest.mark.parametrize(
    ("devices", "nodes", "rules"),
    [
        ("auto", 1, {}),
        ("cpu:8", 3, {"overlap": "replace", "catchup": "none", "max_run": 3600.5}),
        ("gpu:2", 2, {"overlap": "allow", "stop_grace": 30.5}),
    ],
)
def test_what_is_printed_is_what_the_schemas_say(
    conf: Path, root: Path, devices: str, nodes: int, rules: dict[str, Any]
) -> None:
    settings = line_settings(Path("lines.parquet"), train={"devices": devices, "nodes": nodes})
    secret = {"from_secrets": ("AWS_SECRET_ACCESS_KEY=store/secret.key",)}
    for text in (
        a_run(conf, settings=settings, options=secret),
        a_schedule(conf, settings=settings, options=secret, **rules),
    ):
        every = [*yaml.safe_load_all(text), objects(text)["RayJob"]]
        assert {each["kind"] for each in every} >= {"ConfigMap", "RayJob"}
        for each in every:
            assert faults(each, root) == []


def test_the_schemas_know_a_mistake_when_they_see_one(conf: Path, root: Path) -> None:
    found = objects(a_schedule(conf))
    found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["conteiners"] = []
    found["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "env"
    ] = {}
    del found["Role"]["rules"][0]["verbs"]
    for kind in ("CronJob", "RayJob", "Role"):
        assert len(faults(found[kind], root)) == 1, kind


def test_the_claim_in_the_guide_is_what_the_schema_says(root: Path) -> None:
    text = (root / "docs" / "guides" / "kubernetes.md").read_text("utf8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert faults(yaml.safe_load(block), root) == []


def test_what_kuberay_checks_in_code_holds(conf: Path) -> None:
    settings = line_settings(Path("lines.parquet"), train={"nodes": 3})
    job = objects(a_run(conf, settings=settings))["RayJob"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"])
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] == 2
    # KubeRay's services find their pods by this label.
    labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    assert "app.kubernetes.io/name" not in labels
    assert "workerGroupSpecs" not in objects(a_run(conf))["RayJob"]["spec"]["rayClusterSpec"]


def test_the_settings_arrive_as_they_are_and_are_named_by_where_they_are_mounted(conf: Path) -> None:
    for text in (a_run(conf), a_schedule(conf)):
        found = objects(text)
        assert found["ConfigMap"]["data"] == {"lines.yaml": conf.read_text("utf8")}
        assert " /project/conf/lines.yaml " in found["RayJob"]["spec"]["entrypoint"]
        (volume,) = [
            each
            for each in pod_specs(found["RayJob"])[0]["volumes"]
            if each.get("configMap") == {"name": found["ConfigMap"]["metadata"]["name"]}
        ]
        (mount,) = [
            each
            for each in pod_specs(found["RayJob"])[0]["containers"][0]["volumeMounts"]
            if each["name"] == volume["name"]
        ]
        assert mount["mountPath"] == "/project/conf" and mount["readOnly"]


def test_arguments_reach_the_shell_of_the_job_byte_for_byte(conf: Path) -> None:
    overrides = ["data.path=a b; rm -rf $HOME 'x' \"y\" \\ %s\t`id`é"]
    entrypoint = objects(a_run(conf, overrides=overrides, arguments=["--require-gpu"]))["RayJob"]["spec"][
        "entrypoint"
    ]
    expected = ["run", "/project/conf/lines.yaml", "--set", overrides[0], "--require-gpu"]
    assert shlex.split(entrypoint) == ["recurra", *expected]
    show = f"recurra() {{ printf '%s\\0' \"$@\"; }}; {entrypoint}"
    shown = subprocess.run(["bash", "-c", show], check=True, capture_output=True)
    assert shown.stdout.decode().split("\0")[:-1] == expected


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (3, 3), (4, 0), (143, 143)])
def test_of_a_slot_the_gates_refusal_is_no_failure(conf: Path, code: int, seen: int) -> None:
    entrypoint = objects(a_schedule(conf))["RayJob"]["spec"]["entrypoint"]
    done = subprocess.run(["bash", "-c", f"recurra() {{ return {code}; }}; {entrypoint}"], check=False)
    assert done.returncode == seen
    assert "case" not in objects(a_run(conf))["RayJob"]["spec"]["entrypoint"]


def test_pods_have_no_rights_they_do_not_need(conf: Path) -> None:
    found = objects(a_schedule(conf, settings=line_settings(Path("x"), train={"nodes": 2})))
    specs = [*pod_specs(found["RayJob"]), *pod_specs(found["CronJob"])]
    assert len(specs) == 3
    for spec in specs:
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] and pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] and confined["capabilities"] == {"drop": ["ALL"]}
            assert confined["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert [spec["automountServiceAccountToken"] for spec in specs] == [False, False, True]
    assert found["ServiceAccount"]["automountServiceAccountToken"] is False
    assert found["Role"]["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    ]
    name = found["ServiceAccount"]["metadata"]["name"]
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    assert found["RoleBinding"]["subjects"] == [
        {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    ]
    assert pod_specs(found["CronJob"])[0]["serviceAccountName"] == name


def test_secrets_are_named_and_never_written(conf: Path) -> None:
    options = {"from_secrets": ("RECURRA_TRACKING_URI=tracker/uri", "AWS_SECRET_ACCESS_KEY=store/key")}
    variables = {**VARIABLES, "RECURRA_TRACKING_URI": "postgresql://me:S3CR3T-xyz@db/mlflow"}
    text = a_run(conf, options=options, variables=variables)
    assert "S3CR3T" not in text
    (spec,) = pod_specs(objects(text)["RayJob"])
    by_name = {each["name"]: each for each in spec["containers"][0]["env"]}
    reference = {"secretKeyRef": {"name": "tracker", "key": "uri"}}
    assert by_name["RECURRA_TRACKING_URI"] == {"name": "RECURRA_TRACKING_URI", "valueFrom": reference}
    assert by_name["RECURRA_ADDRESS"]["value"] == "auto"
    assert by_name["RECURRA_STORAGE"]["value"] == "/project/runs"
    assert len(by_name) == len(spec["containers"][0]["env"])


STORE: dict[str, Any] = {
    "settings": line_settings(Path("x"), data={"path": "s3://rows/lines.parquet"}),
    "variables": {**VARIABLES, "RECURRA_STORAGE": "s3://runs/team"},
}


@pytest.mark.parametrize(
    ("options", "by"),
    [
        (
            {"from_secrets": ("AWS_ACCESS_KEY_ID=store/id", "AWS_SECRET_ACCESS_KEY=store/key")},
            "the Secret store",
        ),
        ({"env_from": ("store", "region")}, "the Secret region and the Secret store"),
        ({"service_account": "trainer"}, "the ServiceAccount trainer"),
        ({}, "the role of their machines"),
    ],
)
def test_runs_in_a_store_need_no_volume_and_say_by_what_right_pods_reach_it(
    conf: Path, root: Path, options: dict[str, Any], by: str
) -> None:
    given = {"claim": None, **options}
    for text in (a_run(conf, options=given, **STORE), a_schedule(conf, options=given, **STORE)):
        assert "# Runs are in s3://runs/team.\n" in text and f"# Pods reach it by {by}" in text
        found = objects(text)
        for each in [*yaml.safe_load_all(text), found["RayJob"]]:
            assert faults(each, root) == []
        (spec,) = pod_specs(found["RayJob"])
        assert not any("persistentVolumeClaim" in volume for volume in spec["volumes"])
        (container,) = spec["containers"]
        plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        assert plain["RECURRA_STORAGE"] == "s3://runs/team"
        writable = [each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")]
        assert plain["HOME"] in writable and "RECURRA_CACHE" not in plain
        assert spec.get("serviceAccountName") == options.get("service_account")
        references = [each["secretRef"]["name"] for each in container.get("envFrom", ())]
        assert references == list(options.get("env_from", ()))
        by_key = {each["name"] for each in container["env"] if "valueFrom" in each}
        assert by_key == {text.partition("=")[0] for text in options.get("from_secrets", ())}
        if "CronJob" in found:
            # Whoever only creates RayJobs has nothing to do with the store.
            (creating,) = pod_specs(found["CronJob"])
            assert "envFrom" not in creating["containers"][0]
            assert creating["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]


def test_several_pods_need_no_volume_either(conf: Path) -> None:
    settings = line_settings(Path("x"), data={"path": "s3://rows/a.parquet"}, train={"nodes": 3})
    given = {**STORE, "settings": settings, "options": {"claim": None}}
    specs = pod_specs(objects(a_run(conf, **given))["RayJob"])
    assert len(specs) == 2
    assert [list(volume) for spec in specs for volume in spec["volumes"]] == 2 * [
        ["name", "emptyDir"],
        ["name", "configMap"],
    ]


@pytest.mark.parametrize(
    ("rules", "policy", "deadline"),
    [
        ({"overlap": "forbid"}, "Forbid", 2 * 86_400),
        ({"overlap": "replace", "cron": "*/5 9-17 * * 1-5"}, "Replace", 4 * 86_400),
        ({"overlap": "allow", "cron": "0 3 1 * *"}, "Allow", 32 * 86_400),
        ({"cron": "0 3 29 2 *"}, "Forbid", 1_462 * 86_400),
        ({"cron": "0 3 * * SUN"}, "Forbid", 8 * 86_400),
        ({"catchup": "none", "misfire_grace": 90.5}, "Forbid", 91),
        ({"catchup": "none", "misfire_grace": 1.0}, "Forbid", 10),
    ],
)
def test_the_rules_of_a_schedule_become_those_of_a_cron_job(
    conf: Path, rules: dict[str, Any], policy: str, deadline: int
) -> None:
    spec = objects(a_schedule(conf, **rules))["CronJob"]["spec"]
    assert (spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == (policy, deadline)
    assert spec["timeZone"] == "Europe/Berlin"
    assert spec["schedule"] == rules.get("cron", "0 3 * * *")
    assert spec["successfulJobsHistoryLimit"] == spec["failedJobsHistoryLimit"] == 3
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0 and "activeDeadlineSeconds" not in job


def test_a_longest_run_ends_the_rayjob_and_later_its_job(conf: Path) -> None:
    found = objects(a_schedule(conf, max_run=3600.5, stop_grace=30.5))
    assert found["RayJob"]["spec"]["activeDeadlineSeconds"] == 3601
    assert found["CronJob"]["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 3601
    (spec,) = pod_specs(found["RayJob"])
    assert spec["terminationGracePeriodSeconds"] == 31
    environment = yaml.safe_load(found["RayJob"]["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment == {"RAY_JOB_STOP_WAIT_TIME_S": "31"}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"overlap": "queue"}, "--overlap"),
        ({"catchup": "all"}, "--catchup"),
        ({"jitter": 5.0}, "--jitter"),
        ({"cron": "0 0 3 * * *"}, "--cron"),
        ({"cron": "0 3 L * *"}, "--cron"),
        ({"cron": "0 3 * * 7"}, "Sunday as 0"),
        ({"cron": "0 3 */2 * 1"}, "other days"),
        ({"cron": "61 3 * * *"}, "--cron"),
        ({"zone": "Europe/Atlantis"}, "--timezone"),
    ],
)
def test_what_kubernetes_has_no_counterpart_of_is_refused(
    conf: Path, rules: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        a_schedule(conf, **rules)


def test_a_name_is_one_of_kubernetes_and_leaves_room_for_the_slot() -> None:
    names = ["lines", "Lines", "l_ines", "l-ines", "ü", "a" * 60, "a" * 61, "x-", "9"]
    made = [object_name(name, most=kubernetes.MAX_CRON_NAME) for name in names]
    assert len(set(made)) == len(names)
    for name in made:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(f"{name}-29876543") <= kubernetes.MAX_NAME
    assert made[0] == "recurra-lines"


AWKWARD = (
    *("no", "Yes", "null", "~", "1e3", "010", "12:30", "0x1f", "2024-01-01", "1_000", ".inf", "", "é"),
    *(" a", "a: b", "# c", "-", "*x", "=", "'\"", "&a", "!x", "@", "`", "%", "{}", "[a]", "a:", "a b "),
    *("a\n", "\n", "a\n\n", "\ta\nb", "a \n b", "a\n  b \n\n c\n", "a\nb", "---\n", "a\n...\n", "#\n"),
    *("é\n\u2028x\n", "a\r\nb\n", "\x07\n", "\ufeffa\n", "a\n\u0085b\n", "a\tb \n\tc\n"),
)


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_is_read_back_as_text(text: str) -> None:
    document = {"kind": "ConfigMap", "data": {text: text}, "list": [text, text]}
    assert yaml.safe_load(rendered([document], ["a note"])) == document
