from types import SimpleNamespace

import pytest

from components.errors import TrackerError
from pipeline.backends.deliveries import Delivery, Refused, flat, gathered, key_of, shortened, text_of


class Requests:
    """Notes the requests it is given; refuses those that hold a bad key."""

    def __init__(self, *, bad=None, away=False):
        self.made, self.bad, self.away = [], bad, away

    def __call__(self, action):
        if self.away:
            raise TrackerError("away")
        return action(self)

    def __getattr__(self, name):
        def request(*args, **kwargs):
            values = [value for values in kwargs.values() if isinstance(values, list) for value in values]
            if any(value.key == self.bad for value in values):
                raise Refused(f"{self.bad} is not allowed")
            self.made.append((name, args, kwargs))
            if name == "search_runs":
                return []
            return SimpleNamespace(info=SimpleNamespace(run_id=f"id-{len(self.made)}"))

        return request


ENTITIES = SimpleNamespace(
    Metric=lambda key, value, at, step: SimpleNamespace(key=key, value=value, at=at, step=step),
    Param=lambda key, value: SimpleNamespace(key=key, value=value),
    RunTag=lambda key, value: SimpleNamespace(key=key, value=value),
)


def delivery(requests, memory=None, problems=None):
    return Delivery(
        requests,
        entities=ENTITIES,
        experiment=lambda: "7",
        run_id="run-1",
        memory=memory if memory is not None else {"experiment": "7", "runs": {"": "parent"}},
        problems=problems if problems is not None else [],
    )


def values(stage="", *, step=0, at=1, **more):
    return {"kind": "values", "stage": stage, "at": at, "step": step, **more}


def test_values_between_two_other_entries_go_together():
    entries = [
        values(metrics={"loss": 1.0}, step=1, at=10),
        values("train", metrics={"loss": 3.0}, step=1, at=11),
        values(metrics={"loss": 2.0}, step=2, at=12, tags={"a": "b"}),
        {"kind": "end", "stage": "train", "at": 13},
        values(params={"p": "1"}),
    ]
    first, second, end, last = gathered(entries)
    assert first["metrics"] == [("loss", 1.0, 10, 1), ("loss", 2.0, 12, 2)]
    assert first["tags"] == {"a": "b"}
    assert (second["stage"], second["metrics"]) == ("train", [("loss", 3.0, 11, 1)])
    assert end["kind"] == "end"
    assert last["params"] == {"p": "1"}


def test_many_values_are_cut_into_batches_that_mlflow_takes():
    requests = Requests()
    delivery(requests)([values(params={f"p{i}": "x" for i in range(250)})])
    assert [len(kwargs["params"]) for _, _, kwargs in requests.made] == [100, 100, 50]


def test_a_refused_value_is_reported_and_the_others_go_through():
    requests, problems = Requests(bad="b"), []
    delivery(requests, problems=problems)([values(metrics={"a": 1.0, "b": 2.0, "c": 3.0})])
    sent = [metric.key for _, _, kwargs in requests.made for metric in kwargs["metrics"]]
    assert sent == ["a", "c"]
    assert problems == ["MLflow refused b: b is not allowed"]


def test_an_absent_mlflow_raises_so_that_all_is_sent_again():
    with pytest.raises(TrackerError, match="away"):
        delivery(Requests(away=True))([values(metrics={"a": 1.0})])


def test_a_run_is_made_once_and_remembered():
    requests = Requests()
    deliver = delivery(requests, memory={})
    start = {"kind": "start", "stage": "", "at": 5, "tags": {"k": "v"}}
    memory = deliver([start, {**start, "stage": "train"}])
    assert [name for name, _, _ in requests.made] == [
        "search_runs",
        "create_run",
        "search_runs",
        "create_run",
    ]
    assert memory == {"experiment": "7", "runs": {"": "id-2", "train": "id-4"}}
    child = requests.made[3][2]
    assert child["tags"] == {
        "recurra.run_id": "run-1", "recurra.stage": "train", "k": "v", "mlflow.parentRunId": "id-2"
    }  # fmt: skip
    requests.made.clear()
    delivery(requests, memory)([start])
    assert requests.made == [("update_run", ("id-2",), {"status": "RUNNING"})]


def test_a_file_that_is_gone_is_reported(tmp_path):
    problems = []
    entry = {"kind": "artifact", "stage": "", "at": 1, "path": str(tmp_path / "gone"), "folder": ""}
    delivery(Requests(), problems=problems)([entry])
    assert problems == [f"{tmp_path / 'gone'} was gone before MLflow could have it."]


@pytest.mark.parametrize("name", ["loss", "valid/accuracy", "a b:c-d_e.f"])
def test_a_key_that_mlflow_takes_stays_as_it_is(name):
    assert key_of(name) == name


@pytest.mark.parametrize("name", ["f1[B-LOC]", "a=b(c)", "/etc/x", "a/../b", "Größe", "k" * 300])
def test_other_keys_are_made_so_and_stay_different(name):
    key = key_of(name)
    assert key != name
    assert len(key) <= 250
    assert key != key_of(name + "]")
    assert ".." not in key and not key.startswith("/")
    assert not set(key) & set("[]=()ö")


def test_a_long_text_is_cut_with_its_length_and_hash():
    text = "x" * 20_000
    short = shortened(text, 6000)
    assert len(short) == 6000
    assert "(20000 characters, SHA-256 " in short
    assert shortened("short", 6000) == "short"
    assert short != shortened(text + "y", 6000)


def test_nested_settings_become_dotted_keys():
    assert flat({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}
    assert [text_of(value) for value in ("x", 1, True, None, ["ä"])] == ["x", "1", "true", "null", '["ä"]']
