"""The same command on a Kubernetes cluster with KubeRay, as YAML for `kubectl`.

ConfigMap   the settings files, as they are
RayJob      a run with a Ray cluster of its own, which goes when the run ends
CronJob     at each slot a Job; its pod creates the slot's RayJob and waits for its end (rayjobs.py)

The rules of a CronJob are about its Jobs. So that they hold for runs, a Job lasts as long as its RayJob and
owns it: `Forbid` sees a run that goes on, `Replace` ends it, and the history limits delete both.

Every pod mounts the claim, where there is one, at /project, and there the settings at conf/. With runs in an
object store no claim is needed; pods get its credentials from Secrets or the role of a ServiceAccount.
"""

import hashlib
import io
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from conf.load import Problem, SettingsError
from conf.schema import Settings
from pipeline.jobs.pods import (
    PROJECT,
    SETTINGS,
    Pods,
    SecretKey,
    mounted,
    pods_of,
    settings_files,
    variables_of,
)
from pipeline.jobs.schedule import Rules
from pipeline.jobs.slots import Timetable

TEMPLATE_FOLDER, TEMPLATE = "/recurra", "rayjob.yaml"
USER = 1000  # of the image
GPU = "nvidia.com/gpu"

MAX_NAME = 47  # of a RayJob: KubeRay puts more behind it
MAX_CRON_NAME = MAX_NAME - len("-29876543")  # a Job is named by the minutes since 1970
KEPT_SECONDS = 60  # that a cluster stays after its run
START_SECONDS = 1_800  # that a cluster may take to start: images are pulled, machines added
LEAST_DEADLINE_SECONDS = 10  # the controller looks every ten seconds
HISTORY = 3
DAYS_SEEN = (datetime(2024, 1, 1), datetime(2029, 1, 1))  # with a 29th of February at both ends

POLICIES = {"forbid": "Forbid", "replace": "Replace", "allow": "Allow"}

_MEMBER = r"(?:\*|(?:\d+|[A-Za-z]{3})(?:-(?:\d+|[A-Za-z]{3}))?)(?:/\d+)?"
_CRON_FIELD = re.compile(rf"{_MEMBER}(?:,{_MEMBER})*")
_BLOCK = re.compile(r"(?=\S)[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]+(?<=\S)\n")
# What YAML 1.1, which kubectl reads, takes for text without quotes.
_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[A-Za-z/][A-Za-z0-9_./-]*", re.IGNORECASE)


def submitted(
    name: str,
    *,
    settings: Settings,
    conf: Sequence[Path],
    overrides: Sequence[str],
    variables: Mapping[str, str],
    options: Mapping[str, Any],
    command: str = "run",
    arguments: Sequence[str] = (),
    max_run: float | None = None,
    stop_grace: float = 120.0,
) -> str:
    """A ConfigMap and a RayJob for one run.

    Args:
        name: of the run, never the same for another one: a RayJob does not change once it is there.
        variables: the surroundings, as RECURRA_STORAGE.
        options: of `pods_of`.
        arguments: of the command, after the settings.
        max_run: seconds.
        stop_grace: seconds.

    Raises:
        SettingsError: no pod could do with these settings or surroundings.
    """
    pods = pods_of(settings, **options)
    files = settings_files(conf)
    name = object_name(name, most=MAX_NAME)
    seen = variables_of(variables, pods, settings)
    job = ray_job(
        name,
        argv=[*mounted(command, files, overrides), *arguments],
        settings=name,
        pods=pods,
        variables=seen,
        max_run=max_run,
        stop_grace=stop_grace,
    )
    made = config_map(name, files, namespace=pods.namespace)
    note = f"Recurra: one run, {name}. It starts with `kubectl apply`; applied again, it does nothing."
    return rendered([{**made, "immutable": True}, job], [note, *_about_places(pods, seen)])


def scheduled(
    name: str,
    *,
    settings: Settings,
    conf: Sequence[Path],
    overrides: Sequence[str],
    cron: str,
    zone: str,
    rules: Rules,
    variables: Mapping[str, str],
    options: Mapping[str, Any],
) -> str:
    """Everything that keeps a schedule: a CronJob, what it reads, and what it is allowed to do.

    Args:
        variables: the surroundings, as RECURRA_STORAGE.
        options: of `pods_of`.

    Raises:
        SettingsError: Kubernetes has no counterpart of the expression or of a rule, or no pod could do with
            these settings or surroundings.
    """
    _check_rules(cron, zone, rules)
    pods = pods_of(settings, **options)
    files = settings_files(conf)
    name = object_name(name, most=MAX_CRON_NAME)
    seen = variables_of(variables, pods, settings)
    template = ray_job(
        None,
        argv=mounted("retrain", files, overrides),
        settings=name,
        pods=pods,
        variables=seen,
        max_run=rules.max_run,
        stop_grace=rules.stop_grace,
        accepted=(0, 4),  # the gate's refusal is an answer, not a failure
    )
    documents = [
        config_map(name, files, namespace=pods.namespace),
        config_map(_template_name(name), {TEMPLATE: _dumped(template)}, namespace=pods.namespace),
        *_rights(name, pods.namespace),
        _cron_job(name, cron=cron, zone=zone, rules=rules, pods=pods),
    ]
    notes = [
        f"Recurra: {name}, for `kubectl apply`.",
        "Each slot has a RayJob, named by the minutes from 1970 to the slot.",
        "A slot in the hour that a clock change skips may not come, and one in the hour that comes twice may",
        "come twice. Nothing pauses it after failures: that is `suspend` of the CronJob.",
    ]
    return rendered(documents, [*notes, *_about_places(pods, seen)])


def _about_places(pods: Pods, variables: Mapping[str, str]) -> list[str]:
    """Where data and runs are, and by what right pods reach them."""
    notes = []
    if pods.claim is not None:
        notes += [
            f"Pods see the claim {pods.claim} as {PROJECT} and the settings in {SETTINGS}, from where",
            "relative paths in them are taken: the data has to be in the claim, or paths are URLs.",
        ]
    storage = variables.get("RECURRA_STORAGE", "")
    if "://" in storage:
        keys = {at.secret for name, at in pods.secrets.items() if name.startswith("AWS_")}
        given = [f"the Secret {name}" for name in sorted({*keys, *pods.env_from})]
        given += [f"the ServiceAccount {pods.service_account}"] if pods.service_account else []
        by = " and ".join(given) or "the role of their machines, if that may"
        notes += [f"Runs are in {storage}.", f"Pods reach it by {by}."]
    return notes


def _check_rules(cron: str, zone: str, rules: Rules) -> None:
    Timetable.of(cron, zone)
    problems = []
    fields = cron.split()
    if len(fields) != 5 or not all(_CRON_FIELD.fullmatch(each) for each in fields):
        hint = "give minute, hour, day, month and weekday as numbers, ranges, lists and steps"
        problems.append(Problem("--cron", "", f"{cron!r} cannot be read by Kubernetes", hint))
    elif re.search(r"(?<!/)\b7\b", fields[4]):
        problems.append(Problem("--cron", "", "weekdays of Kubernetes are 0 to 6", "write Sunday as 0"))
    elif "*" not in (fields[2], fields[4]) and "*/" in fields[2] + fields[4]:
        # A star with a step is still a star to cron, and not to Kubernetes: either day, or both.
        hint = "give the day of the month or the weekday, not both"
        problems.append(Problem("--cron", "", f"{cron!r} means other days to Kubernetes", hint))
    if rules.overlap not in POLICIES:
        hint = "choose forbid, replace or allow"
        problems.append(Problem("--overlap", "", f"Kubernetes has no counterpart of {rules.overlap}", hint))
    if rules.catchup == "all":
        hint = "choose latest or none"
        message = "Kubernetes starts only the latest of the slots that were missed"
        problems.append(Problem("--catchup", "", message, hint))
    if rules.jitter:
        problems.append(Problem("--jitter", "", "Kubernetes starts every slot at its time", "leave it out"))
    if problems:
        raise SettingsError(problems)


def _starting_deadline(cron: str, zone: str, rules: Rules) -> int:
    """Seconds after which a missed slot does not start: with `latest` not before the next one comes."""
    if rules.catchup == "none":
        return max(math.ceil(rules.misfire_grace), LEAST_DEADLINE_SECONDS)
    # By days, since a year of minutes would be long to walk through.
    days = Timetable.of(" ".join(["0", "0", *cron.split()[2:]]), zone)
    first, last = (each.replace(tzinfo=days.zone) for each in DAYS_SEEN)
    found = [slot.astimezone(days.zone).date() for slot in days.between(first, last, most=2_000)]
    longest = max(after - before for before, after in pairwise(found))
    return int((longest + timedelta(days=1)).total_seconds())


def config_map(name: str, files: Mapping[str, str], *, namespace: str) -> dict[str, Any]:
    """Text files by their keys."""
    metadata = _metadata(name, namespace)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {**files}}


def ray_job(
    name: str | None,
    *,
    argv: Sequence[str],
    settings: str,
    pods: Pods,
    variables: Mapping[str, str],
    max_run: float | None = None,
    stop_grace: float = 120.0,
    accepted: Sequence[int] = (0,),
) -> dict[str, Any]:
    """A run with a Ray cluster of its own.

    Args:
        name: None for a template, which gets one for each slot.
        argv: of `recurra`.
        settings: the ConfigMap of the settings files.
        max_run: seconds.
        stop_grace: seconds that it has to checkpoint when it is stopped.
        accepted: exit codes that are no failure.
    """
    # HTTP carries the entrypoint to Ray as it is; a submitting pod would take it through two shells.
    spec: dict[str, Any] = {
        "submissionMode": "HTTPMode",
        "entrypoint": _entrypoint(argv, accepted),
        "runtimeEnvYAML": _dumped({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(stop_grace))}}),
        "backoffLimit": 0,
        "preRunningDeadlineSeconds": START_SECONDS,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "rayClusterSpec": _ray_cluster(settings, pods, variables, stop_grace=stop_grace),
    }
    if max_run is not None:
        spec["activeDeadlineSeconds"] = math.ceil(max_run)
    metadata = _metadata(name, pods.namespace)
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _entrypoint(argv: Sequence[str], accepted: Sequence[int]) -> str:
    line = shlex.join(["recurra", *argv])
    others = [code for code in accepted if code]
    if not others:
        return line
    return f"{line}; code=$?; case $code in {'|'.join(map(str, others))}) exit 0;; esac; exit $code"


def _ray_cluster(
    settings: str, pods: Pods, variables: Mapping[str, str], *, stop_grace: float
) -> dict[str, Any]:
    template = _ray_pod(settings, pods, variables, stop_grace=stop_grace)
    cluster: dict[str, Any] = {
        "rayVersion": version("ray"),
        # KubeRay makes a token for each cluster: without one, whoever reaches the head runs code there.
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": {}, "template": template},
    }
    workers = pods.num_nodes - 1
    if workers:
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": workers,
                "minReplicas": workers,
                "maxReplicas": workers,
                "rayStartParams": {},
                "template": template,
            }
        ]
    return cluster


def _ray_pod(settings: str, pods: Pods, variables: Mapping[str, str], *, stop_grace: float) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "settings", "configMap": {"name": settings}},
    ]
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]
    if pods.claim is not None:
        volumes.append({"name": "project", "persistentVolumeClaim": {"claimName": pods.claim}})
        mounts.append({"name": "project", "mountPath": PROJECT})
    mounts.append({"name": "settings", "mountPath": SETTINGS, "readOnly": True})
    amounts = {"cpu": str(pods.num_cpus), "memory": pods.memory}
    if pods.num_gpus:
        amounts[GPU] = str(pods.num_gpus)
    container = {
        "name": "ray",
        "image": pods.image,
        "env": _environment({"HOME": "/tmp", **variables}, pods.secrets),
        **_variables_of_secrets(pods),
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": mounts,
        "securityContext": _confined(),
    }
    spec: dict[str, Any] = {
        **_unprivileged(),
        **({} if pods.service_account is None else {"serviceAccountName": pods.service_account}),
        # Of Kubernetes' own API. A cloud's token for a role is another one, and comes all the same.
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": math.ceil(stop_grace),
        "containers": [container],
        "volumes": volumes,
    }
    if pods.num_gpus:
        spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {"metadata": {"labels": _labels()}, "spec": spec}


def _environment(variables: Mapping[str, str], secrets: Mapping[str, SecretKey]) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": value} for name, value in variables.items() if name not in secrets]
    referred = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": at.secret, "key": at.key}}}
        for name, at in secrets.items()
    ]
    return sorted([*plain, *referred], key=lambda entry: str(entry["name"]))


def _variables_of_secrets(pods: Pods) -> dict[str, Any]:
    if not pods.env_from:
        return {}
    return {"envFrom": [{"secretRef": {"name": name}} for name in pods.env_from]}


def _unprivileged() -> dict[str, Any]:
    """What every pod is: a user without rights, and without other services among its variables."""
    return {
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _confined() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _rights(name: str, namespace: str) -> list[dict[str, Any]]:
    """An account that creates RayJobs and sees what became of them, and nothing else."""
    group = "rbac.authorization.k8s.io"
    metadata = _metadata(name, namespace)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]


def _cron_job(name: str, *, cron: str, zone: str, rules: Rules, pods: Pods) -> dict[str, Any]:
    job: dict[str, Any] = {
        "backoffLimit": 0,
        # Of a machine that is drained: the next pod finds the slot's RayJob and waits for it.
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
            ]
        },
        "template": {"metadata": {"labels": _labels()}, "spec": _creating_pod(name, pods)},
    }
    if rules.max_run is not None:
        # The RayJob has its own; this one is for when nobody looks after RayJobs.
        job["activeDeadlineSeconds"] = math.ceil(rules.max_run) + START_SECONDS
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(name, pods.namespace),
        "spec": {
            "schedule": cron,
            "timeZone": zone,
            "concurrencyPolicy": POLICIES[rules.overlap],
            "startingDeadlineSeconds": _starting_deadline(cron, zone, rules),
            "successfulJobsHistoryLimit": HISTORY,
            "failedJobsHistoryLimit": HISTORY,
            "jobTemplate": {"metadata": {"labels": _labels()}, "spec": job},
        },
    }


def _creating_pod(name: str, pods: Pods) -> dict[str, Any]:
    # The Job's own labels on its pods: the slot's name, and what makes the Job the owner of its RayJob.
    labels = {"JOB_NAME": "job-name", "JOB_UID": "controller-uid"}
    env = []
    for variable, label in labels.items():
        path = f"metadata.labels['batch.kubernetes.io/{label}']"
        env.append({"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}})
    amounts = {"cpu": "50m", "memory": "128Mi"}
    container = {
        "name": "create",
        "image": pods.image,
        "command": ["python", "-m", "pipeline.jobs.rayjobs", f"{TEMPLATE_FOLDER}/{TEMPLATE}"],
        "env": env,
        "resources": {"requests": amounts, "limits": {"memory": amounts["memory"]}},
        "volumeMounts": [{"name": "template", "mountPath": TEMPLATE_FOLDER, "readOnly": True}],
        "securityContext": _confined(),
    }
    return {
        **_unprivileged(),
        "serviceAccountName": name,
        "automountServiceAccountToken": True,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "template", "configMap": {"name": _template_name(name)}}],
    }


def _template_name(name: str) -> str:
    return f"{name}-rayjob"


def _metadata(name: str | None, namespace: str) -> dict[str, Any]:
    return {**({} if name is None else {"name": name}), "namespace": namespace, "labels": _labels()}


def _labels() -> dict[str, str]:
    # Not `name`: by that KubeRay finds the pods of its services.
    return {"app.kubernetes.io/part-of": "recurra"}


def object_name(name: str, *, most: int) -> str:
    """`recurra-` and the name, as Kubernetes takes it; a part of its digest where that takes changing it."""
    wanted = f"recurra-{name}"
    kept = re.sub(r"[^a-z0-9-]", "-", wanted.lower()).strip("-")
    if kept == wanted and len(kept) <= most:
        return kept
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{kept[: most - 7].strip('-')}-{digest}"


def rendered(documents: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """The documents as one file, with comments at its head."""
    head = "".join(f"# {note}\n" for note in notes)
    return head + "---\n".join(_dumped(document) for document in documents)


def _dumped(document: Mapping[str, Any]) -> str:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 2**31
    out = io.StringIO()
    yaml.dump(_styled(document), out)
    return out.getvalue()


def _styled(value: Any) -> Any:
    """With its texts as every reader of YAML takes them: in blocks, in quotes, or neither."""
    if isinstance(value, Mapping):
        return {_styled(key): _styled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_styled(each) for each in value]
    if not isinstance(value, str) or _PLAIN.fullmatch(value):
        return value
    return LiteralScalarString(value) if _BLOCK.fullmatch(value) else DoubleQuotedScalarString(value)
