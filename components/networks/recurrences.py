"""GRU, LSTM and simple recurrence over packed sequences, for devices without cuDNN.

    x (B, T, F)            packed (S, F): real steps only
      a: a0 a1 a2           time 0     1       2
      b: b0          ──▶   [a0 c0 b0 | a1 c1 | a2]   ──▶ a loop over time, with ever fewer rows
      c: c0 c1

Same weights and numbers as Keras's layers, but only real steps cost anything. The product of all steps with
the input weights is one, and so are the gradients of weights: in the loop stays what needs the step before.
Letters: B rows, T padded time, S real steps, F features, U units, G gates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

Tensor: TypeAlias = tf.Tensor
State: TypeAlias = Sequence[Tensor]


class Packing(NamedTuple):
    """Where the real steps of a batch stand, one time after another, the longest row first."""

    order: Tensor  # (B,) int32: the row of the batch that each packed row is
    counts: Tensor  # (longest,) int32: rows that have a step at this time
    starts: Tensor  # (longest,) int32: place of its first
    places: Tensor  # (S, 2) int32: row and time
    before: Tensor  # (S - counts[0],) int32: for each step but the first ones, the place of the one before

    @classmethod
    def of(cls, lengths: Tensor, *, reverse: bool) -> "Packing":
        """Of rows of these lengths, (B,) int32; `reverse` reads them backwards."""
        order = tf.argsort(lengths, direction="DESCENDING", stable=True)
        ordered = tf.gather(lengths, order)
        has_step = tf.transpose(tf.sequence_mask(ordered, tf.maximum(tf.reduce_max(lengths), 1)))
        counts = tf.reduce_sum(tf.cast(has_step, tf.int32), axis=1)
        starts = tf.cumsum(counts, exclusive=True)
        time, rank = tf.unstack(tf.cast(tf.where(has_step), tf.int32), axis=1)
        at = tf.gather(ordered, rank) - 1 - time if reverse else time
        first = counts[0]
        before = tf.gather(starts, time[first:] - 1) + rank[first:]
        return cls(order, counts, starts, tf.stack([tf.gather(order, rank), at], axis=1), before)

    def shifted(self, packed: Tensor, first: Tensor) -> Tensor:
        """For each step what `packed` (S, N) holds for the one before; at the first time `first` (B, N)."""
        return tf.concat([first[: self.counts[0]], tf.gather(packed, self.before)], axis=0)


class _Cell(NamedTuple):
    """A recurrence by its gates: what a step says, and what its gradient is made from.

    step      inputs (N, G U), state, recurrent weights, bias ─▶ the new state, what the gradient needs (N, K)
    factors   what it needs (S, K), states, states before     ─▶ what of the gradient needs no loop
    back      gradient of the state, factors                  ─▶ that of the recurrent product, of the state
                                                                 where it passes by the product, what is kept
    finish    what was kept (S, L), factors                   ─▶ gradients of the inputs and of the product

    Factors are (S, U) each and not one tensor: the part of a time is some of its rows, which is no copy.
    """

    num_states: int
    step: Callable[[Tensor, State, Tensor, Tensor], tuple[list[Tensor], Tensor]]
    factors: Callable[[Tensor, State, State], list[Tensor]]
    back: Callable[[State, State], tuple[Tensor, list[Tensor | None], Tensor]]
    finish: Callable[[Tensor, State], tuple[Tensor, Tensor]]


def _lstm_step(x: Tensor, state: State, weights: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    i, f, n, o = tf.split(x + tf.matmul(state[0], weights), 4, axis=1)
    i, f, n, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(n), tf.sigmoid(o)
    c = f * state[1] + i * n
    return [o * tf.tanh(c), c], tf.concat([i, f, n, o], axis=1)


def _lstm_factors(kept: Tensor, states: State, before: State) -> list[Tensor]:
    i, f, n, o = tf.split(kept, 4, axis=1)
    squashed = tf.tanh(states[1])
    of_gates = [n * i * (1 - i), before[1] * f * (1 - f), i * (1 - n * n), squashed * o * (1 - o)]
    return [*of_gates, o * (1 - squashed * squashed), f]


def _lstm_back(gradient: State, factors: State) -> tuple[Tensor, list[Tensor | None], Tensor]:
    of_i, of_f, of_n, of_o, of_output, forget = factors
    dh, dc = gradient[0], gradient[1] + gradient[0] * of_output
    product = tf.concat([dc * of_i, dc * of_f, dc * of_n, dh * of_o], axis=1)
    return product, [None, dc * forget], product


def _gru_step(x: Tensor, state: State, weights: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    """With the reset gate after the product, as cuDNN and Keras have it."""
    xz, xr, xn = tf.split(x, 3, axis=1)
    hz, hr, hn = tf.split(tf.matmul(state[0], weights) + bias, 3, axis=1)
    z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
    n = tf.tanh(xn + r * hn)
    return [n + z * (state[0] - n)], tf.concat([z, r, n, hn], axis=1)


def _gru_factors(kept: Tensor, states: State, before: State) -> list[Tensor]:
    z, r, n, hn = tf.split(kept, 4, axis=1)
    of_n = (1 - z) * (1 - n * n)
    return [(before[0] - n) * z * (1 - z), of_n * hn * r * (1 - r), of_n * r, z, of_n]


def _gru_back(gradient: State, factors: State) -> tuple[Tensor, list[Tensor | None], Tensor]:
    of_z, of_r, of_product, z, _ = factors
    dh = gradient[0]
    return tf.concat([dh * of_z, dh * of_r, dh * of_product], axis=1), [dh * z], dh


def _gru_finish(dh: Tensor, factors: State) -> tuple[Tensor, Tensor]:
    """The reset gate stands between the candidate and the product, not between it and the inputs."""
    of_z, of_r, of_product, _, of_n = factors
    gates = [dh * of_z, dh * of_r]
    return tf.concat([*gates, dh * of_n], axis=1), tf.concat([*gates, dh * of_product], axis=1)


def _rnn_step(x: Tensor, state: State, weights: Tensor, bias: Tensor) -> tuple[list[Tensor], Tensor]:
    h = tf.tanh(x + tf.matmul(state[0], weights))
    return [h], h


def _rnn_back(gradient: State, factors: State) -> tuple[Tensor, list[Tensor | None], Tensor]:
    product = gradient[0] * factors[0]
    return product, [None], product


CELLS: Mapping[str, _Cell] = {
    "gru": _Cell(1, _gru_step, _gru_factors, _gru_back, _gru_finish),
    "lstm": _Cell(2, _lstm_step, _lstm_factors, _lstm_back, lambda kept, factors: (kept, kept)),
    "rnn": _Cell(
        1,
        _rnn_step,
        lambda kept, states, before: [1 - kept * kept],
        _rnn_back,
        lambda kept, factors: (kept, kept),
    ),
}


def run(
    cell: str,
    x: Tensor,
    lengths: Tensor,
    *,
    weights: Sequence[Tensor],
    reverse: bool = False,
    state: State | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Outputs (B, T, U), zeros beyond the lengths, and the state after each row's last step.

    Args:
        cell: gru, lstm or rnn.
        x: (B, T, F).
        lengths: real steps, (B,) int32; rows of none keep their state.
        weights: as Keras keeps them: of the inputs (F, G U), of the state (U, G U), and biases.
        reverse: whether real steps are read from the last to the first.
        state: to begin with, (B, U) each; zeros when not given.
    """
    kind = CELLS[cell]
    of_inputs, of_state, biases = (tf.cast(each, x.dtype) for each in weights)
    bias, recurrent_bias = tf.unstack(biases) if biases.shape.rank == 2 else (biases, tf.zeros_like(biases))
    units, shape = of_state.shape[0], tf.shape(x)
    packing = Packing.of(lengths, reverse=reverse)
    inputs = tf.matmul(tf.gather_nd(x, packing.places), of_inputs) + bias
    zeros = tf.zeros([shape[0], units], x.dtype)
    first = [zeros] * kind.num_states if state is None else [tf.cast(each, x.dtype) for each in state]
    first = [tf.gather(each, packing.order) for each in first]
    steps = _recur(kind, packing, inputs, of_state, recurrent_bias, first)
    y = tf.scatter_nd(packing.places, steps[0], [shape[0], shape[1], units])
    y.set_shape([None, x.shape[1], units])
    return y, _last(packing, steps, first)


def _last(packing: Packing, steps: State, first: State) -> list[Tensor]:
    """The state of each row of the batch after its last step."""
    num_rows = tf.shape(packing.order)[0]
    num_steps = tf.reduce_sum(tf.cast(tf.range(num_rows) < packing.counts[:, tf.newaxis], tf.int32), axis=0)
    at = tf.gather(packing.starts, tf.maximum(num_steps - 1, 0)) + tf.range(num_rows)
    back = tf.argsort(packing.order)
    found = []
    for packed, initial in zip(steps, first, strict=True):
        # One row more than there are steps: rows of none look there.
        ended = tf.gather(tf.pad(packed, [[0, 1], [0, 0]]), tf.minimum(at, tf.shape(packed)[0]))
        found.append(tf.gather(tf.where((num_steps > 0)[:, tf.newaxis], ended, initial), back))
    return found


def _recur(
    kind: _Cell, packing: Packing, inputs: Tensor, weights: Tensor, bias: Tensor, first: list[Tensor]
) -> list[Tensor]:
    """The states of all steps, packed, (S, U) each; gradients flow through the outputs alone."""

    @tf.custom_gradient
    def recur(
        inputs: Tensor, weights: Tensor, bias: Tensor, *first: Tensor
    ) -> tuple[list[Tensor], Callable[..., tuple[Tensor, ...]]]:
        states, kept = _forward(kind, packing, inputs, weights, bias, first)

        def gradient(*upstream: Tensor) -> tuple[Tensor, ...]:
            before = [packing.shifted(each, begin) for each, begin in zip(states, first, strict=True)]
            factors = kind.factors(kept, states, before)
            written, of_first = _backward(kind, packing, upstream[0], factors, weights, first)
            of_inputs, of_product = kind.finish(written, factors)
            of_weights = tf.matmul(before[0], of_product, transpose_a=True)
            return (of_inputs, of_weights, tf.reduce_sum(of_product, axis=0), *of_first)

        return states, gradient

    return list(recur(inputs, weights, bias, *first))


def _forward(
    kind: _Cell, packing: Packing, inputs: Tensor, weights: Tensor, bias: Tensor, first: State
) -> tuple[list[Tensor], Tensor]:
    """All steps' states, and what the gradient needs of them."""
    units = weights.shape[0]

    def body(t: Tensor, state: list[Tensor], written: list[Any]) -> tuple[Tensor, list[Tensor], list[Any]]:
        start, count = packing.starts[t], packing.counts[t]
        here = [each[:count] for each in state]
        state, kept = kind.step(inputs[start : start + count], here, weights, bias)
        return t + 1, state, [out.write(t, value) for out, value in zip(written, [*state, kept], strict=True)]

    length = tf.shape(packing.counts)[0]
    written = [_written(length, inputs.dtype) for _ in range(kind.num_states + 1)]
    unknown = [tf.TensorShape([None, units])] * kind.num_states
    _, _, written = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (tf.constant(0), list(first), written),
        shape_invariants=(tf.TensorShape([]), unknown, [tf.TensorShape(None)] * len(written)),
    )
    *states, kept = (each.concat() for each in written)
    return [tf.ensure_shape(each, [None, units]) for each in states], kept


def _backward(
    kind: _Cell, packing: Packing, upstream: Tensor, factors: State, weights: Tensor, first: State
) -> tuple[Tensor, list[Tensor]]:
    """What each step's gradient leaves for `finish`, and the gradient of the first state."""
    units = weights.shape[0]

    def body(t: Tensor, gradient: list[Tensor], written: Any) -> tuple[Tensor, list[Tensor], Any]:
        start, count = packing.starts[t], packing.counts[t]
        # Rows that end here have no gradient from later steps yet.
        ending = [[0, count - counts[t + 1]], [0, 0]]
        gradient = [tf.pad(each, ending) for each in gradient]
        gradient[0] += upstream[start : start + count]
        product, passed, left = kind.back(gradient, [each[start : start + count] for each in factors])
        through = tf.matmul(product, weights, transpose_b=True)
        passed[0] = through if passed[0] is None else passed[0] + through
        return t - 1, passed, written.write(t, left)

    length = tf.shape(packing.counts)[0]
    counts = tf.concat([packing.counts, [0]], axis=0)
    unknown = [tf.TensorShape([None, units])] * kind.num_states
    _, of_first, written = tf.while_loop(
        lambda t, *_: t >= 0,
        body,
        (length - 1, [each[:0] for each in first], _written(length, upstream.dtype)),
        shape_invariants=(tf.TensorShape([]), unknown, tf.TensorShape(None)),
    )
    without_steps = [[0, tf.shape(first[0])[0] - packing.counts[0]], [0, 0]]
    return written.concat(), [tf.pad(each, without_steps) for each in of_first]


def _written(length: Tensor, dtype: tf.DType) -> tf.TensorArray:
    return tf.TensorArray(dtype, length, infer_shape=False, element_shape=[None, None])
