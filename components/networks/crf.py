"""A chain of tags over the logits of the steps (CRF): whole sequences have a probability, not single tags.

    start ── y1 ── transitions ── y2 ── transitions ── ... ── yL ── end        score of a sequence: the sum
             │                    │                           │
        logits[:, 0]         logits[:, 1]                logits[:, L-1]

    log_likelihood, log_marginals    all C**L sequences summed: forward, backward
    decode, n_best                   the best of them kept: Viterbi

Letters: B batch, T padded time, L real steps of a sequence, C tags, N best sequences.
(Lafferty, McCallum & Pereira 2001, ICML; Rabiner 1989, doi:10.1109/5.18626; Viterbi 1967,
doi:10.1109/TIT.1967.1054010)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

Tensor: TypeAlias = tf.Tensor

# Finite: at minus infinity a true sequence that breaks the rules would have an infinite loss and NaN for a
# gradient. At e**-10000 a forbidden sequence still has no share in any sum. The search keeps to the rules
# whatever the logits are: see _strict.
FORBIDDEN = -1e4


@dataclass(frozen=True)
class Allowed:
    """Which tags may begin a sequence, follow one another and end it."""

    start: np.ndarray  # (C,) bool
    follows: np.ndarray  # (C, C) bool, a row for the tag before and a column for the one after
    end: np.ndarray  # (C,) bool


class Scores(NamedTuple):
    """Nats that a sequence gains by its tags alone, float32; at or below FORBIDDEN it must not be."""

    start: Tensor  # (C,)
    transitions: Tensor  # (C, C), a row for the tag before and a column for the one after
    end: Tensor  # (C,)


class Chain(keras.layers.Layer):
    """The scores as variables, in the order start, transitions, end.

    They begin at zero, where every step's tag is independent of the others: a softmax per step. Scores that
    are not allowed are FORBIDDEN whatever the variables hold, and teach them nothing.
    """

    def __init__(self, num_classes: int, *, allowed: Allowed | None = None) -> None:
        super().__init__(name="chain")
        shapes = {"start": (num_classes,), "transitions": (num_classes, num_classes), "end": (num_classes,)}
        for name, shape in shapes.items():
            self.add_weight(shape=shape, initializer="zeros", dtype="float32", name=name)
        self.built = True
        self.allowed = allowed

    @property
    def scores(self) -> Scores:
        """What the variables hold now, as tensors: read it where the gradient is recorded."""
        values = Scores(*(tf.convert_to_tensor(variable.value) for variable in self.trainable_variables))
        return values if self.allowed is None else _restricted(values, self.allowed)


def constraints(allowed: Allowed) -> Scores:
    """Scores that only forbid, 0 where allowed: `decode` finds the best legal sequence of any logits."""
    values = Scores(*(tf.zeros(mask.shape) for mask in (allowed.start, allowed.follows, allowed.end)))
    return _restricted(values, allowed)


def log_likelihood(logits: Tensor, targets: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """Log probability of each whole sequence of tags, in nats, float32 (B,).

    A target sequence that is forbidden has a finite one, near FORBIDDEN for each forbidden pair.

    Args:
        logits: (B, T, C) of any float type; what stands beyond a sequence's length may be NaN.
        targets: tags, (B, T); whatever stands beyond a sequence's length is ignored.
        lengths: real steps per sequence, (B,), at least 1.
        scores: of the tags alone.
    """
    emitted, real = _time_major(logits, lengths)
    path = tf.where(real, tf.transpose(targets)[..., tf.newaxis], 0)
    score = _path_scores(emitted, real, path, lengths, scores)
    return score[:, 0] - _log_partition(emitted, real, scores)


def log_marginals(logits: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """Log posterior of each tag at each step, given the whole sequence, in nats, float32 (B, T, C).

    Beyond a sequence's length it is log(1 / C), so that it is finite and a distribution everywhere.

    Args:
        logits: (B, T, C) of any float type; what stands beyond a sequence's length may be NaN.
        lengths: real steps per sequence, (B,), at least 1.
        scores: of the tags alone.
    """
    emitted, real = _time_major(logits, lengths)
    forward, _ = _forward(emitted, real, scores)
    joint = forward + _backward(emitted, real, scores)
    return tf.transpose(tf.nn.log_softmax(tf.where(real, joint, 0.0)), [1, 0, 2])


def decode(logits: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """The most probable whole sequence, (B, T) int32, 0 beyond its length.

    It is the most probable of those with the fewest forbidden tags and pairs: of the legal ones, where there
    are any. Of equally probable tags the lowest is taken.

    Args:
        logits: (B, T, C) of any float type; what stands beyond a sequence's length may be NaN.
        lengths: real steps per sequence, (B,), at least 1.
        scores: of the tags alone.
    """
    paths, _ = _search(*_time_major(logits, lengths), scores, 1)
    return tf.transpose(paths[..., 0])


def n_best(logits: Tensor, lengths: Tensor, scores: Scores, n: int | Tensor) -> tuple[Tensor, Tensor]:
    """The most probable whole sequences, best first: tags (B, N, T) int32 and log probabilities (B, N).

    These are exact, in nats, float32. The order is that of `decode`, so whatever is forbidden comes last.
    Where there are fewer than N sequences (C**L of them) the rest have tags 0 and minus infinity.
    (Seshadri & Sundberg 1994, the parallel list Viterbi algorithm, doi:10.1109/26.275300)

    Args:
        logits: (B, T, C) of any float type; what stands beyond a sequence's length may be NaN.
        lengths: real steps per sequence, (B,), at least 1.
        scores: of the tags alone.
        n: N, at least 1, or a tensor that holds it; time and memory grow with it.

    Raises:
        ValueError: n below 1.
    """
    if isinstance(n, int) and n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    emitted, real = _time_major(logits, lengths)
    paths, exists = _search(emitted, real, scores, n)
    score = _path_scores(emitted, real, paths, lengths, scores)
    found = score - _log_partition(emitted, real, scores)[:, tf.newaxis]
    return tf.transpose(paths, [1, 2, 0]), tf.where(exists, found, -np.inf)


def _restricted(scores: Scores, allowed: Allowed) -> Scores:
    masks = (allowed.start, allowed.follows, allowed.end)
    return Scores(*(tf.where(mask, values, FORBIDDEN) for mask, values in zip(masks, scores, strict=True)))


def _time_major(logits: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (T, B, C) float32, at most 0 and 0 beyond the lengths, and what is real, (T, B, 1)."""
    real = tf.sequence_mask(lengths, tf.shape(logits)[1])[..., tf.newaxis]
    # Before any arithmetic: NaN times a gradient of zero is NaN.
    clean = tf.where(real, tf.cast(logits, tf.float32), 0.0)
    # All sequences lose the same, so no probability changes, but sums over many steps stay small and exact.
    clean -= tf.stop_gradient(tf.reduce_max(clean, axis=-1, keepdims=True))
    return tf.transpose(clean, [1, 0, 2]), tf.transpose(real, [1, 0, 2])


def _loop(
    step: Callable[[Tensor, Any], tuple[Any, Tensor]],
    state: Any,
    first: Tensor,
    num_steps: Tensor,
    *,
    backward: bool = False,
) -> tuple[Tensor, Any]:
    """Outputs of all steps, (T, ...), and the last state.

    Args:
        step: from the index of a step and the state to the next state and this step's output.
        state: before the second step that is taken.
        first: the output of the first one.
        num_steps: T.
        backward: whether the last step is taken first.
    """

    def index(count: Tensor) -> Tensor:
        return num_steps - 1 - count if backward else count

    def body(count: Tensor, state: Any, outputs: tf.TensorArray) -> tuple[Tensor, Any, tf.TensorArray]:
        state, output = step(index(count), state)
        return count + 1, state, outputs.write(index(count), output)

    outputs = tf.TensorArray(first.dtype, num_steps, element_shape=first.shape)
    outputs = outputs.write(index(tf.constant(0)), first)
    _, state, outputs = tf.while_loop(
        lambda count, *_: count < num_steps, body, (tf.constant(1), state, outputs)
    )
    return outputs.stack(), state


def _log_sum(x: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials over the last axis, which holds at least one finite number."""
    largest = tf.stop_gradient(tf.reduce_max(x, axis=-1, keepdims=True))
    return tf.math.log(tf.reduce_sum(tf.exp(x - largest), axis=-1)) + largest[..., 0]


def _forward(logits: Tensor, real: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
    """Log probability of each tag given the steps so far, (T, B, C), and the log of the divisors, (B,).

    Divided at every step, as in Rabiner 1989, section V.A; beyond the length it stays as it was. The sums are
    in logarithms and not products of matrices: those lose a tag that is e**-88 times less probable than
    another, which the next step may yet make the only one.
    """
    arriving = tf.transpose(scores.transitions)  # (after, before): sums run over the last axis

    def divided(joint: Tensor) -> tuple[Tensor, Tensor]:
        total = _log_sum(joint)[:, tf.newaxis]
        return joint - total, total

    def step(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        before, total = state
        after, factor = divided(_log_sum(before[:, tf.newaxis] + arriving) + logits[t])
        after = tf.where(real[t], after, before)
        return (after, total + tf.where(real[t], factor, 0.0)), after

    first, factor = divided(scores.start + logits[0])
    outputs, (_, total) = _loop(step, (first, factor), first, tf.shape(logits)[0])
    return outputs, total[:, 0]


def _backward(logits: Tensor, real: Tensor, scores: Scores) -> Tensor:
    """Log likelihood of the steps to come given each tag, but for a factor per step, (T, B, C)."""

    def step(t: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        leaving = (after + logits[t + 1])[:, tf.newaxis] + scores.transitions
        before = _log_sum(leaving)
        before -= tf.reduce_max(before, axis=-1, keepdims=True)
        before = tf.where(real[t + 1], before, after)
        return before, before

    last = tf.zeros_like(logits[0]) + scores.end
    return _loop(step, last, last, tf.shape(logits)[0], backward=True)[0]


def _log_partition(logits: Tensor, real: Tensor, scores: Scores) -> Tensor:
    """Log of the sum over all sequences, (B,); its gradient is how often each score is expected.

    That takes one loop back over the forward probabilities. TensorFlow's own gradient of the loop says the
    same in about the same time, but keeps several (B, C, C) tensors of every step.
    """

    @tf.custom_gradient
    def partition(logits: Tensor, *values: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        scores = Scores(*values)
        forward, total = _forward(logits, real, scores)

        def gradient(upstream: Tensor) -> tuple[Tensor, ...]:
            return _expected(forward, real, scores, upstream)

        return total + _log_sum(forward[-1] + scores.end), gradient

    return partition(logits, *scores)


def _expected(forward: Tensor, real: Tensor, scores: Scores, weights: Tensor) -> tuple[Tensor, ...]:
    """Posteriors times the rows' weights (B,): of tags (T, B, C), and summed as the scores are used."""
    arriving = tf.transpose(scores.transitions)

    def step(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        after, pairs = state
        came_from = tf.nn.softmax(forward[t][:, tf.newaxis] + arriving)  # (B, after, before)
        joint = came_from * tf.where(real[t + 1], after, 0.0)[..., tf.newaxis]
        before = tf.where(real[t + 1], tf.reduce_sum(joint, axis=1), after)
        return (before, pairs + tf.reduce_sum(joint, axis=0)), before

    last = tf.nn.softmax(forward[-1] + scores.end) * weights[:, tf.newaxis]
    tags, (first, pairs) = _loop(
        step, (last, tf.zeros_like(arriving)), last, tf.shape(forward)[0], backward=True
    )
    return (
        tf.where(real, tags, 0.0),
        tf.reduce_sum(first, axis=0),
        tf.transpose(pairs),
        tf.reduce_sum(last, axis=0),
    )


def _path_scores(logits: Tensor, real: Tensor, paths: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """Score of each path, (B, N), from paths (T, B, N) that are 0 beyond the lengths."""
    emitted = tf.gather(logits, paths, axis=2, batch_dims=2)
    pairs = tf.gather_nd(scores.transitions, tf.stack([paths[:-1], paths[1:]], axis=-1))
    last = tf.gather(tf.transpose(paths, [1, 0, 2]), lengths - 1, axis=1, batch_dims=1)
    inner = tf.reduce_sum(emitted, axis=0) + tf.reduce_sum(tf.where(real[1:], pairs, 0.0), axis=0)
    return tf.gather(scores.start, paths[0]) + inner + tf.gather(scores.end, last)


def _strict(logits: Tensor, real: Tensor, scores: Scores) -> Scores:
    """Scores for the search, with an axis B in front: breaking a rule costs more than anything can gain.

    The cost is a row's own, so that the other rows of its batch have no say in its answer.
    """
    forbidden = [values <= FORBIDDEN for values in scores]
    sizes = [
        tf.reduce_max(tf.where(mask, 0.0, tf.abs(values)))
        for mask, values in zip(forbidden, scores, strict=True)
    ]
    num_scores = tf.reduce_sum(tf.cast(real, tf.float32), axis=(0, 2)) + 1.0
    lowest = tf.reduce_min(tf.where(tf.math.is_finite(logits), logits, 0.0), axis=2)
    gain = 2.0 * num_scores * tf.reduce_max(sizes) - tf.reduce_sum(lowest, axis=0)
    cost = -2.0 * gain - 1.0
    return Scores(
        *(
            tf.where(mask, tf.reshape(cost, [-1] + [1] * values.shape.rank), values)
            for mask, values in zip(forbidden, scores, strict=True)
        )
    )


def _search(logits: Tensor, real: Tensor, scores: Scores, n: int | Tensor) -> tuple[Tensor, Tensor]:
    """The best paths, (T, B, N) int32 with 0 beyond the lengths, and whether there are so many, (B, N).

    Each tag keeps the N best paths that lead to it. A place is one of these C * N: tag times N plus rank.
    """
    start, transitions, end = _strict(logits, real, scores)
    arriving = tf.transpose(transitions, [0, 2, 1])[..., tf.newaxis]  # (B, after, before, 1)
    num_steps, num_rows, num_tags = tf.unstack(tf.shape(logits))
    here = tf.reshape(tf.range(num_tags * n), [1, num_tags, n])

    def step(t: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        paths = tf.reshape(before[:, tf.newaxis] + arriving, [num_rows, num_tags, num_tags * n])
        after, places = tf.math.top_k(paths, n)
        after += logits[t][..., tf.newaxis]
        after -= tf.reduce_max(after, axis=(1, 2), keepdims=True)
        is_real = real[t][..., tf.newaxis]
        return tf.where(is_real, after, before), tf.where(is_real, places, here)

    def back(t: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        origins = tf.reshape(came_from[t + 1], [num_rows, num_tags * n])
        places = tf.gather(origins, places, axis=1, batch_dims=1)
        return places, places

    # One path leads to each first tag; the others are not there yet.
    one = (start + logits[0])[..., tf.newaxis]
    first = tf.pad(one, [[0, 0], [0, 0], [0, n - 1]], constant_values=-np.inf)
    came_from, last = _loop(step, first, tf.tile(here, [num_rows, 1, 1]), num_steps)
    best, places = tf.math.top_k(tf.reshape(last + end[..., tf.newaxis], [num_rows, num_tags * n]), n)
    exists = best > -np.inf
    places, _ = _loop(back, places, places, num_steps, backward=True)
    return tf.where(real & exists, places // n, 0), exists
