import os

import pytest

from pipeline.backends.cluster import WorkerLost
from pipeline.jobs.replicas import BadRows, Elsewhere, Here, _hushed

ROWS = {"id": ["a", "b"], "frames": [[[1.0, 2.0]], [[3.0, 1.0], [0.0, 5.0]]]}


class Dies:
    """A worker that is lost at its first call."""

    def call(self, function, **kwargs):
        raise WorkerLost("A worker process died: killed.")


class Lives:
    def call(self, function, **kwargs):
        return function(**kwargs)


class OneCluster:
    def replacement(self, lost):
        assert isinstance(lost, Dies)
        return Lives()


def test_the_model_here_says_what_its_predictor_says(evaluated):
    from components import bundles

    expected = bundles.open(evaluated.folder.bundle).predict(ROWS, n_best=1)
    assert Here(evaluated.folder.bundle).answer(ROWS, n_best=1, distribution=False) == expected


def test_a_batch_whose_process_died_is_done_by_the_next(evaluated):
    told = []
    replica = Elsewhere(evaluated.folder.bundle, Dies(), OneCluster(), told.append)
    here = Here(evaluated.folder.bundle).answer(ROWS, n_best=0, distribution=True)
    for _ in range(2):
        assert replica.answer(ROWS, n_best=0, distribution=True) == here
    assert len(told) == 1 and "Starting another one" in told[0]


def test_rows_that_do_not_fit_are_told(evaluated):
    bad = {**ROWS, "frames": [[[1.0, 2.0]], []]}
    for replica in (Here(evaluated.folder.bundle), Elsewhere(evaluated.folder.bundle, Lives(), None, None)):
        with pytest.raises(BadRows, match="row 1"):
            replica.answer(bad, n_best=0, distribution=False)


def test_what_is_said_at_the_start_of_a_model_is_heard_only_when_it_fails(capfd):
    with _hushed():
        os.write(2, b"I0000 a stub could not be found\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
    with pytest.raises(OSError, match="gone"), _hushed():
        os.write(2, b"E0000 a file could not be read\n")
        raise OSError("gone")
    assert capfd.readouterr().err == "E0000 a file could not be read\n"
