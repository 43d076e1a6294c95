from pathlib import Path
from typing import Any

import pytest

from conf.load import SettingsError
from pipeline.jobs.pods import Pods, SecretKey, mounted, pods_of, settings_files, variables_of
from tests.pipeline.conftest import line_settings

SETTINGS = line_settings(Path("x"), data={"path": "s3://rows/lines.parquet"})
VARIABLES = {"RECURRA_STORAGE": "/somewhere/runs", "RECURRA_TRACKING_URI": "http://mlflow:5000"}


@pytest.mark.parametrize(
    ("devices", "cpus", "expected"),
    [("auto", 4, (4, 0)), ("cpu:8", 4, (8, 0)), ("cpu:2", 4, (4, 0)), ("gpu:2", 6, (6, 2))],
)
def test_pods_get_what_the_devices_need(devices: str, cpus: int, expected: tuple[int, int]) -> None:
    settings = line_settings(Path("lines.parquet"), train={"devices": devices, "nodes": 3})
    pods = pods_of(settings, image="i", cpus=cpus)
    assert (pods.num_cpus, pods.num_gpus) == expected
    assert pods.num_nodes == 3


def test_secrets_are_named_by_secret_and_key() -> None:
    pods = pods_of(SETTINGS, image="i", from_secrets=["A_B=store/the.key", "C=x.y/k"])
    assert pods.secrets == {"A_B": SecretKey("store", "the.key"), "C": SecretKey("x.y", "k")}


def test_everything_wrong_is_said_at_once_and_without_the_secret() -> None:
    settings = line_settings(Path("lines.parquet"), train={"devices": "gpu:all"})
    with pytest.raises(SettingsError) as caught:
        pods_of(settings, image=None, from_secrets=["PASSWORD=S3CR3T-xyz"], memory="a lot")
    assert len(caught.value.problems) == 4
    for said in ("--image", "--from-secret", "'PASSWORD'", "--memory", "'a lot'", "train.devices"):
        assert said in str(caught.value)
    assert "S3CR3T" not in str(caught.value)


def test_the_surroundings_are_those_of_a_pod() -> None:
    found = variables_of(VARIABLES, Pods("i", claim="data"), SETTINGS)
    expected = {"RECURRA_STORAGE": "/project/runs", "RECURRA_ADDRESS": "auto"}
    assert found == {**VARIABLES, **expected}


@pytest.mark.parametrize("pods", [Pods("i"), Pods("i", num_nodes=2), Pods("i", claim="rows", num_nodes=2)])
def test_runs_in_a_store_stay_there_and_a_working_folder_of_this_machine_is_left_out(pods: Pods) -> None:
    variables = {**VARIABLES, "RECURRA_STORAGE": "s3://runs/here"}
    found = variables_of({**variables, "RECURRA_CACHE": "/somewhere/cache"}, pods, SETTINGS)
    assert found == {**variables, "RECURRA_ADDRESS": "auto"}


def test_what_is_no_name_of_kubernetes_is_refused_and_a_secret_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        pods_of(SETTINGS, image="i", env_from=["store", "S3CR3T-xyz"], service_account="Team A")
    assert len(caught.value.problems) == 2
    assert "--env-from" in str(caught.value) and "'Team A'" in str(caught.value)
    assert "S3CR3T" not in str(caught.value)


def test_what_a_secret_gives_is_left_to_it() -> None:
    secret = {"RECURRA_TRACKING_URI": SecretKey("tracker", "uri")}
    variables = {**VARIABLES, "RECURRA_TRACKING_URI": "sqlite:////somewhere/mlflow.db"}
    assert "RECURRA_TRACKING_URI" not in variables_of(
        variables, Pods("i", claim="c", secrets=secret), SETTINGS
    )


@pytest.mark.parametrize(
    ("changed", "claim", "data", "said"),
    [
        ({}, None, "s3://rows/a.parquet", "--storage"),
        ({"RECURRA_STORAGE": "s3://runs"}, None, "/somewhere/a.parquet", "data.path"),
        ({"RECURRA_TRACKING_URI": "sqlite:////somewhere/m.db"}, "data", "a.parquet", "--tracking-uri"),
        ({"RECURRA_ARTIFACTS": "file:///somewhere"}, "data", "a.parquet", "--artifacts"),
        (
            {"RECURRA_TRACKING_URI": "postgresql://a:S3CR3T@b/m"},
            "data",
            "a.parquet",
            "--from-secret RECURRA_TR",
        ),
    ],
)
def test_what_pods_do_not_see_or_must_not_hold_is_refused(
    changed: dict[str, str], claim: str | None, data: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        variables_of(
            {**VARIABLES, **changed}, Pods("i", claim=claim), line_settings(Path("x"), data={"path": data})
        )
    assert len(caught.value.problems) == 1
    assert "S3CR3T" not in str(caught.value)


def write(folder: Path, texts: dict[str, str]) -> list[Path]:
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text, "utf8")
    return [folder / name for name in texts]


def test_settings_files_keep_their_order_and_names_that_differ(tmp_path: Path) -> None:
    paths = write(tmp_path, {"z/a b.yaml": "1", "y/a b.yaml": "2", "ü.yaml": "3"})
    files = settings_files(paths)
    assert list(files.items()) == [("a_b.yaml", "1"), ("1-a_b.yaml", "2"), ("_.yaml", "3")]
    argv = mounted("run", files, ["a=b c"])
    assert argv == ["run", *(f"/project/conf/{name}" for name in files), "--set", "a=b c"]


@pytest.mark.parametrize("text", ["a: 1\nb: s3://me:S3CR3T@host/x\n", "a: 1\nb: s3://x?secret_key=S3CR3T\n"])
def test_a_password_in_a_settings_file_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    (path,) = write(tmp_path, {"a.yaml": text})
    with pytest.raises(SettingsError, match=r"a\.yaml:2: .*password") as caught:
        settings_files([path])
    assert "S3CR3T" not in str(caught.value)


def test_a_password_in_an_override_is_refused() -> None:
    with pytest.raises(SettingsError, match="--set") as caught:
        mounted("run", [], ["data.path=s3://me:S3CR3T@host/x"])
    assert "S3CR3T" not in str(caught.value)


def test_more_than_a_config_map_holds_is_refused(tmp_path: Path) -> None:
    paths: Any = write(tmp_path, {"a.yaml": "#" * 600_000, "b.yaml": "#" * 600_000})
    with pytest.raises(SettingsError, match="1,200,000 bytes"):
        settings_files(paths)
