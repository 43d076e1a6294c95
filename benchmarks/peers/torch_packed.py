"""What PyTorch offers for rows of unlike length: a DataLoader whose batches are packed sequences."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_sequence  # type: ignore[import-not-found]
from torch.utils.data import DataLoader  # type: ignore[import-not-found]

from benchmarks.peers.cases import Case, Epoch, Part

VERSION = f"PyTorch {torch.__version__}"
LAYERS = {"gru": nn.GRU, "lstm": nn.LSTM}
Pair = tuple[torch.Tensor, torch.Tensor]


class Network(nn.Module):
    """The same layers and sizes as Recurra's; logits of every real step, or of every row."""

    def __init__(self, case: Case, features: int, per_step: bool) -> None:
        super().__init__()
        self.per_step = per_step
        self.table = nn.Embedding(case.symbols, case.embedding) if case.symbols else None
        self.rnn = LAYERS[case.cell](
            case.embedding or features, case.units, batch_first=True, bidirectional=case.bidirectional
        )
        self.head = nn.Linear(case.units * (1 + case.bidirectional), case.classes)

    def forward(self, x: PackedSequence) -> torch.Tensor:
        if self.table is not None:
            x = x._replace(data=self.table(x.data))
        steps, state = self.rnn(x)
        if self.per_step:
            return self.head(steps.data)
        state = state[0] if isinstance(state, tuple) else state
        return self.head(torch.cat(list(state), dim=1))


def collate(rows: list[Pair]) -> tuple[PackedSequence, torch.Tensor]:
    """Rows padded to the longest of them, packed, and their labels in the order of the logits."""
    lengths = torch.tensor([len(x) for x, _ in rows])
    x = pack_padded_sequence(
        pad_sequence([x for x, _ in rows], batch_first=True), lengths, batch_first=True, enforce_sorted=False
    )
    labels = [y for _, y in rows]
    if labels[0].ndim == 0:
        return x, torch.stack(labels)
    padded = pad_sequence(labels, batch_first=True)
    return x, pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False).data


def epochs(train: Part, valid: Part, case: Case) -> Iterator[Epoch]:
    """One after another, without end."""
    torch.manual_seed(case.seed)
    network = Network(case, train.x.shape[1], train.per_step)
    optimizer = torch.optim.Adam(network.parameters(), case.rate)
    loader = DataLoader(_tensors(train, case), batch_size=case.batch, shuffle=True, collate_fn=collate)
    checks = DataLoader(_tensors(valid, case), batch_size=case.batch, collate_fn=collate)
    counted = 0.0
    while True:
        begun = time.perf_counter()
        network.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), case.clip_norm)
            optimizer.step()
            counted = counted or time.perf_counter()  # after the first batch of all
        trained = time.perf_counter()
        accuracy = _accuracy(network, checks) if case.validate else None
        steps = int(train.offsets[-1])
        yield Epoch(steps, steps, trained - begun, time.perf_counter() - counted, accuracy)
        counted = time.perf_counter()


@torch.no_grad()
def _accuracy(network: Network, checks: Any) -> float:
    network.eval()
    right = [network(x).argmax(1) == y for x, y in checks]
    return float(torch.cat(right).float().mean())


def _tensors(part: Part, case: Case) -> list[Pair]:
    """What a DataLoader takes for a data set: anything with a length and an index."""
    rows = []
    for x, y in part.rows():
        steps = torch.from_numpy(x[:, 0].astype(np.int64) if case.symbols else np.ascontiguousarray(x))
        labels = torch.from_numpy(y.astype(np.int64))
        rows.append((steps, labels if part.per_step else labels[0]))
    return rows
