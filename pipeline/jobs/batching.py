"""Rows of several requests answered together: the predictor puts like lengths into one batch.

    requests ─ answer ─▶ queue ─┬─ lane of replica 1 ─▶ answers, each to its own request
                                └─ lane of replica 2

A lane waits a moment for company, takes what may go together, and asks its replica in a thread. Rows that do
not fit harm nobody else: then each request of that batch is asked alone.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.errors import RecurraError
from pipeline.jobs.protocol import Asked, Refused
from pipeline.jobs.replicas import BadRows, Replica

Answers = Mapping[str, Sequence[Any]]


@dataclass(eq=False)
class Model:
    """A version in service."""

    uri: str
    replicas: Sequence[Replica]
    close: contextlib.ExitStack
    is_retired: bool = False
    lanes: list["asyncio.Task[None]"] = field(default_factory=list)


@dataclass(eq=False)
class _Waiting:
    asked: Asked
    answered: "asyncio.Future[tuple[Answers, str]]"


class Batcher:
    """The queue of one server. All its methods belong to one event loop."""

    def __init__(self, *, wait: float, max_rows: int, max_waiting: int) -> None:
        """
        Args:
            wait: seconds for which a request waits for company.
            max_rows: rows of one batch; a larger request is one of its own.
            max_waiting: requests in the queue.
        """
        self.wait, self.max_rows, self.max_waiting = wait, max_rows, max_waiting
        self.sizes: list[int] = []
        self._waiting: deque[_Waiting] = deque()
        self._changed = asyncio.Condition()
        self._model: Model | None = None

    @property
    def model(self) -> Model | None:
        """The version that answers now."""
        return self._model

    async def answer(self, asked: Asked) -> tuple[Answers, str]:
        """The answers to a request's rows, and the version that gave them.

        Raises:
            Refused: rows that do not fit, or too many requests wait already.
        """
        if len(self._waiting) >= self.max_waiting:
            told = f"{self.max_waiting} requests are waiting already"
            raise Refused(503, "TEMPORARILY_UNAVAILABLE", told, retry_after=1)
        waiting = _Waiting(asked, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        async with self._changed:
            self._changed.notify()
        return await waiting.answered

    async def serve(self, model: Model) -> None:
        """Let a version answer from now on; the one before it finishes what it has begun, and is closed."""
        before, self._model = self._model, model
        model.lanes = [asyncio.create_task(self._lane(model, replica)) for replica in model.replicas]
        if before is not None:
            await self._retire(before)

    async def stop(self) -> None:
        """Answer what waits, then close."""
        while self._waiting and self._model is not None:
            await asyncio.sleep(0.01)
        if self._model is not None:
            await self._retire(self._model)
            self._model = None

    async def _retire(self, model: Model) -> None:
        model.is_retired = True
        async with self._changed:
            self._changed.notify_all()
        await asyncio.gather(*model.lanes)
        await asyncio.to_thread(model.close.close)

    async def _lane(self, model: Model, replica: Replica) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting or model.is_retired)
            if model.is_retired:
                return
            if self.wait and sum(each.asked.num_rows for each in self._waiting) < self.max_rows:
                await asyncio.sleep(self.wait)
            if batch := self._take():
                await self._ask(replica, batch, model.uri)
            if self._waiting:
                async with self._changed:
                    self._changed.notify()

    def _take(self) -> list[_Waiting]:
        """The oldest request and those that may go with it; who has gone away is passed over."""
        taken: list[_Waiting] = []
        num_rows = 0
        for each in list(self._waiting):
            if each.answered.done():
                self._waiting.remove(each)
                continue
            fits = not taken or num_rows + each.asked.num_rows <= self.max_rows
            if fits and (not taken or each.asked.kind == taken[0].asked.kind):
                self._waiting.remove(each)
                taken.append(each)
                num_rows += each.asked.num_rows
        return taken

    async def _ask(self, replica: Replica, batch: Sequence[_Waiting], uri: str) -> None:
        first = batch[0].asked
        columns = {name: [v for each in batch for v in each.asked.columns[name]] for name in first.columns}
        try:
            answers = await asyncio.to_thread(
                replica.answer, columns, n_best=first.n_best, distribution=first.distribution
            )
        except BadRows as error:
            if len(batch) > 1:
                for each in batch:
                    await self._ask(replica, [each], uri)
                return
            _refuse(batch, Refused(400, "BAD_DATA", str(error)))
        except RecurraError as error:
            _refuse(batch, Refused(503, "TEMPORARILY_UNAVAILABLE", str(error), retry_after=5))
        except Exception as error:  # the lane must go on
            _refuse(batch, error)
        else:
            start = 0
            for each in batch:
                stop = start + each.asked.num_rows
                if not each.answered.done():
                    own = {name: values[start:stop] for name, values in answers.items()}
                    each.answered.set_result((own, uri))
                start = stop


def _refuse(batch: Sequence[_Waiting], error: Exception) -> None:
    for each in batch:
        if not each.answered.done():
            each.answered.set_exception(error)
