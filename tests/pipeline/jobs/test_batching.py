import asyncio
import contextlib
import threading

import pytest

from components.errors import ClusterError
from pipeline.jobs.batching import Batcher, Model
from pipeline.jobs.protocol import Asked, Refused
from pipeline.jobs.replicas import BadRows


class Doubles:
    """A replica whose answer to a number is twice that; a text is a bad row."""

    def __init__(self, *, gate=None, factor=2):
        self.batches, self.gate, self.factor = [], gate, factor

    def answer(self, columns, *, n_best, distribution):
        self.batches.append(list(columns["x"]))
        if self.gate is not None:
            assert self.gate.wait(10)
        for row, value in enumerate(columns["x"]):
            if isinstance(value, str):
                raise BadRows(f"'x', row {row}: {value}")
        return {"y": [self.factor * value + n_best for value in columns["x"]]}


def model(*replicas, uri="models:/m/1", close=None):
    return Model(uri, replicas, close or contextlib.ExitStack())


def asked(*values, **params):
    return Asked({"x": list(values)}, len(values), **params)


def run(scenario, **options):
    async def main():
        batcher = Batcher(**{"wait": 0.02, "max_rows": 4, "max_waiting": 100, **options})
        return await asyncio.wait_for(scenario(batcher), 20)

    return asyncio.run(main())


def test_requests_that_come_together_are_answered_together_and_each_gets_its_own():
    replica = Doubles()

    async def scenario(batcher):
        await batcher.serve(model(replica))
        return await asyncio.gather(*(batcher.answer(asked(*values)) for values in ((1, 2), (3,), (4, 5))))

    found = run(scenario)
    assert [answers["y"] for answers, _ in found] == [[2, 4], [6], [8, 10]]
    assert replica.batches == [[1, 2, 3], [4, 5]]  # at most four rows
    assert {uri for _, uri in found} == {"models:/m/1"}


def test_a_request_larger_than_a_batch_is_one_of_its_own():
    replica = Doubles()

    async def scenario(batcher):
        await batcher.serve(model(replica))
        return await asyncio.gather(batcher.answer(asked(*range(9))), batcher.answer(asked(1)))

    assert run(scenario)[0][0]["y"] == [2 * each for each in range(9)]
    assert sorted(map(len, replica.batches)) == [1, 9]


def test_requests_of_other_kinds_do_not_mix():
    replica = Doubles()

    async def scenario(batcher):
        await batcher.serve(model(replica))
        return await asyncio.gather(
            batcher.answer(asked(1)), batcher.answer(asked(1, n_best=5)), batcher.answer(asked(2))
        )

    assert [answers["y"] for answers, _ in run(scenario)] == [[2], [7], [4]]
    assert replica.batches == [[1, 2], [1]]


def test_a_bad_row_fails_its_own_request_alone_and_is_told_by_its_own_number():
    replica = Doubles()

    async def scenario(batcher):
        await batcher.serve(model(replica))
        asks = [batcher.answer(asked(1)), batcher.answer(asked(2, "bad")), batcher.answer(asked(3))]
        return await asyncio.gather(*asks, return_exceptions=True)

    one, two, three = run(scenario)
    assert one[0]["y"] == [2] and three[0]["y"] == [6]
    assert isinstance(two, Refused) and two.status == 400 and str(two) == "'x', row 1: bad"


@pytest.mark.parametrize(("error", "kind"), [(ClusterError("gone"), Refused), (KeyError("x"), KeyError)])
def test_what_goes_wrong_in_a_replica_reaches_the_request_and_the_lane_goes_on(error, kind):
    class Fails(Doubles):
        def answer(self, columns, *, n_best, distribution):
            if columns["x"] == [0]:
                raise error
            return super().answer(columns, n_best=n_best, distribution=distribution)

    async def scenario(batcher):
        await batcher.serve(model(Fails()))
        with pytest.raises(kind):
            await batcher.answer(asked(0))
        return await batcher.answer(asked(1))

    assert run(scenario)[0]["y"] == [2]


def test_too_many_that_wait_are_told_to_come_again():
    gate = threading.Event()

    async def scenario(batcher):
        await batcher.serve(model(Doubles(gate=gate)))
        asks = [asyncio.create_task(batcher.answer(asked(each))) for each in range(4)]
        await asyncio.sleep(0.2)  # these are being answered
        asks += [asyncio.create_task(batcher.answer(asked(each))) for each in range(4)]
        await asyncio.sleep(0)  # and these wait
        with pytest.raises(Refused) as caught:
            await batcher.answer(asked(9))
        gate.set()
        await asyncio.gather(*asks)
        return caught.value

    refused = run(scenario, max_waiting=4)
    assert (refused.status, refused.retry_after) == (503, 1)


def test_two_replicas_answer_side_by_side():
    gate = threading.Barrier(2)

    class Meets(Doubles):
        def answer(self, columns, *, n_best, distribution):
            gate.wait(10)  # passes only when both are at work
            return super().answer(columns, n_best=n_best, distribution=distribution)

    async def scenario(batcher):
        await batcher.serve(model(Meets(), Meets()))
        return await asyncio.gather(batcher.answer(asked(1)), batcher.answer(asked(2)))

    assert [answers["y"] for answers, _ in run(scenario, max_rows=1)] == [[2], [4]]


def test_another_version_takes_over_without_a_request_lost():
    gate, closed = threading.Event(), []
    stack = contextlib.ExitStack()
    stack.callback(closed.append, True)
    before, after = Doubles(gate=gate), Doubles(factor=10)

    async def scenario(batcher):
        await batcher.serve(model(before, close=stack))
        first = asyncio.create_task(batcher.answer(asked(1)))
        await asyncio.sleep(0.1)
        change = asyncio.create_task(batcher.serve(model(after, uri="models:/m/2")))
        second = await batcher.answer(asked(2))  # while the first is still with the old one
        assert not first.done() and not closed
        gate.set()
        await change
        return await first, second

    first, second = run(scenario)
    assert (first[0]["y"], first[1]) == ([2], "models:/m/1")
    assert (second[0]["y"], second[1]) == ([20], "models:/m/2")
    assert closed == [True]


def test_a_request_whose_client_went_away_is_not_answered():
    replica = Doubles()

    async def scenario(batcher):
        gone = asyncio.create_task(batcher.answer(asked(1)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        await batcher.serve(model(replica))
        return await batcher.answer(asked(2))

    run(scenario)
    assert replica.batches == [[2]]


def test_stopping_answers_what_waits():
    async def scenario(batcher):
        await batcher.serve(model(Doubles()))
        asks = [asyncio.create_task(batcher.answer(asked(each))) for each in range(10)]
        await asyncio.sleep(0)
        await batcher.stop()
        assert batcher.model is None
        return await asyncio.gather(*asks)

    assert [answers["y"] for answers, _ in run(scenario)] == [[2 * each] for each in range(10)]
