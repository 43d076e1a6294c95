"""doctor --scaling: which counts, what the figures say, and a real measurement on two CPU devices."""

from pathlib import Path
from typing import Any

import pytest

from components.errors import ClusterError, DataError
from conf.schema import Settings
from pipeline import scaling as module
from pipeline.console import Console
from pipeline.scaling import Measured, advice_of, counts, scaling, show, table
from tests.pipeline.conftest import line_settings, lines, write_rows
from tests.pipeline.test_checks import around
from tests.pipeline.test_run import as_if_run


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return line_settings(write_rows(tmp_path / "lines.parquet"))


def measured(*rates: float, waiting: float = 0.0) -> dict[int, dict[str, float]]:
    return {2**i: {"steps_per_second": rate, "waiting_share": waiting} for i, rate in enumerate(rates)}


def rows(settings: Settings, *rates: float, waiting: float = 0.0) -> list[Measured]:
    return table(settings, measured(*rates, waiting=waiting))


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[dict[str, Any]]:
    """What processes are asked, when they answer that there are so many GPUs, each as fast as the first."""
    asked = []

    def ask(given: dict[str, Any]) -> dict[str, Any]:
        asked.append(given)
        if given["what"] == "gpus":
            return {"count": count}
        return {"steps_per_second": 100.0 * int(given["devices"].partition(":")[2]), "waiting_share": 0.0}

    monkeypatch.setattr(module, "_ask", ask)
    return asked


@pytest.mark.parametrize(
    ("most", "found"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])],
)
def test_counts_are_powers_of_two_and_the_last(most: int, found: list[int]) -> None:
    assert counts(most) == found


def test_figures_are_against_one_device_and_the_batch_is_shared(settings: Settings) -> None:
    found = rows(settings, 100.0, 180.0, 240.0)
    assert [row.speed_up for row in found] == pytest.approx([1.0, 1.8, 2.4])
    assert [row.efficiency for row in found] == pytest.approx([1.0, 0.9, 0.6])
    assert [row.batch_per_device for row in found] == ["8 rows", "4 rows", "2 rows"]


def test_a_batch_of_steps_is_shared_too(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "lines.parquet")
    settings = line_settings(data, train={"batch_size": 64})
    train = {name: value for name, value in settings.train.model_dump().items() if name != "batch_size"}
    steps = type(settings.train).model_validate({**train, "batch_steps": 1_000})
    found = rows(settings.model_copy(update={"train": steps}), 1.0, 2.0, 3.0)
    assert [row.batch_per_device for row in found] == ["1,000 steps", "500 steps", "250 steps"]


@pytest.mark.parametrize(
    ("rates", "waiting", "said"),
    [
        ((100.0, 180.0, 240.0), 0.0, ["Beyond 2 devices", "4 have an efficiency of 0.60", "gpu:2"]),
        ((100.0, 110.0, 120.0), 0.0, ["Beyond 1 device it", "2 have an efficiency of 0.55", "gpu:1"]),
        ((100.0, 190.0, 350.0), 0.0, ["Up to 4 devices", "gpu:4"]),
        ((100.0,), 0.0, ["nothing to compare with", "--devices gpu:4"]),
        ((100.0, 190.0), 0.34, ["The devices wait 34% of the time for batches"]),
        ((100.0, 110.0), 0.34, ["The device waits 34% of the time for batches"]),
    ],
)
def test_the_advice_follows_from_the_figures(
    settings: Settings, rates: tuple[float, ...], waiting: float, said: list[str]
) -> None:
    advice = advice_of(rows(settings, *rates, waiting=waiting), kind="gpu")
    for words in said:
        assert words in advice
    assert ("wait" in advice) == (waiting > 0.2)


def test_without_a_gpu_nothing_is_measured_unless_cpus_are_asked_for(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretend_gpus(monkeypatch, 0)
    for devices in ("auto", "gpu:all"):
        found = scaling(settings, around(tmp_path), devices=devices)
        assert found["rows"] == []
        assert "sees no GPU" in found["advice"]
        assert "--devices cpu:4" in found["advice"]
    assert [given["what"] for given in asked] == ["gpus", "gpus"]


def test_more_gpus_than_there_are_is_an_error(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, 2)
    with pytest.raises(ClusterError, match="3 GPUs asked, 2 seen"):
        scaling(settings, around(tmp_path), devices="gpu:3")


def test_rows_have_to_be_prepared_under_the_same_settings(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DataError, match="never run before") as caught:
        scaling(settings, around(tmp_path), devices="cpu:2")
    assert "recurra prepare" in caught.value.hint
    as_if_run(tmp_path, settings, until="prepare")
    write_rows(tmp_path / "lines.parquet", lines(seed=3))
    with pytest.raises(DataError, match="data changed"):
        scaling(settings, around(tmp_path), devices="cpu:2")


def test_every_gpu_is_measured_on_the_rows_that_are_there(
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = as_if_run(tmp_path, settings, until="prepare")
    asked = pretend_gpus(monkeypatch, 6)
    found = scaling(settings, around(tmp_path, console=Console()), devices="auto")
    assert [given["devices"] for given in asked[1:]] == ["gpu:1", "gpu:2", "gpu:4", "gpu:6"]
    assert {given["data"] for given in asked[1:]} == {str(folder.data)}
    show(found, console=Console())
    out, err = capsys.readouterr()
    assert "gpu:6" in out and "speed-up" in out and "Up to 6 devices" in out
    assert "gpu:4: 400 steps per second" in err


def test_a_process_that_fails_is_an_error_with_its_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROCESS", "raise SystemExit('no such library')")
    with pytest.raises(ClusterError, match="exit code 1: no such library"):
        module._ask({"what": "gpus"})


@pytest.mark.slow
def test_an_error_of_the_measurement_comes_out_with_its_hint(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ClusterError, match=r"Measuring gpu:9 failed: .* 9 GPUs asked") as caught:
        from tests.pipeline.conftest import start

        run = start(tmp_path / "run")
        module._measure(run.settings, run.folder.data, devices="gpu:9", seconds=0.1)
    assert "recurra doctor" in caught.value.hint
