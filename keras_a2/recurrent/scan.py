"""Keras's recurrent layers for training on a CPU: the same numbers, their loops compiled with gradients by hand.

TensorFlow differentiates a loop by stacking every intermediate value and adding up each step's weight gradient. Here a
loop forwards keeps what its gradient needs, a loop backwards finds the gradient of every step's sums, and one product
over all steps gives that of the weights. XLA compiles both.

Of one step, ``forward`` of a cell's gates takes x and a, the parts of input and state in the sums ``(batch, width)``,
and the state before; it gives the state after, and what ``backward`` needs. That gives the gradients of x and of a (one
where only their sum matters), and of the state before, its way through a left out. A state is a tuple of
``(batch, units)``, the hidden one first.
"""

from __future__ import annotations

import keras
import tensorflow as tf


class SimpleRNNGates:
    """h = tanh(x + a) (Elman 1990)."""

    states, sums = 1, 1

    @staticmethod
    def forward(x, a, state):
        h = tf.tanh(x + a)
        return (h,), (h,)

    @staticmethod
    def backward(gradients, state, kept):
        dx = gradients[0] * (1 - kept[0] ** 2)
        return (dx,), (0.0,)


class LSTMGates:
    """c = f c + i g, h = o tanh(c); Keras's order of the gates is i, f, g, o (Gers et al. 2000)."""

    states, sums = 2, 1

    @staticmethod
    def forward(x, a, state):
        i, f, g, o = tf.split(x + a, 4, axis=1)
        gates = tf.sigmoid(tf.concat([i, f, o], axis=1))  # one block: XLA vectorises it
        i, f, o = tf.split(gates, 3, axis=1)
        g = tf.tanh(g)
        c = f * state[1] + i * g
        squashed = tf.tanh(c)
        return (o * squashed, c), (gates, g, squashed)

    @staticmethod
    def backward(gradients, state, kept):
        gates, g, squashed = kept
        i, f, o = tf.split(gates, 3, axis=1)
        dh, dc = gradients
        dc = dc + dh * o * (1 - squashed**2)
        parts = [dc * g * i * (1 - i), dc * state[1] * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)]
        return (tf.concat(parts, axis=1),), (0.0, dc * f)


class GRUGates:
    """h = z h + (1 - z) tanh(x_g + r a_g): the reset gate after the product (Cho et al. 2014, as Keras and cuDNN)."""

    states, sums = 1, 2

    @staticmethod
    def forward(x, a, state):
        units = state[0].shape[1]
        gates = tf.sigmoid(x[:, : 2 * units] + a[:, : 2 * units])
        z, r = tf.split(gates, 2, axis=1)
        a_g = a[:, 2 * units :]
        g = tf.tanh(x[:, 2 * units :] + r * a_g)
        return (g + z * (state[0] - g),), (gates, g, a_g)

    @staticmethod
    def backward(gradients, state, kept):
        gates, g, a_g = kept
        z, r = tf.split(gates, 2, axis=1)
        dh = gradients[0]
        dg = dh * (1 - z) * (1 - g**2)
        dz, dr = dh * (state[0] - g) * z * (1 - z), dg * a_g * r * (1 - r)
        return (tf.concat([dz, dr, dg], axis=1), tf.concat([dz, dr, dg * r], axis=1)), (dh * z,)


class Scanned:
    """A recurrent layer of Keras whose loop is the compiled one; weights and results are the layer's own."""

    gates: type

    def __init__(self, *args, steady: int = 0, **options):
        """``steady``: the last so many inputs are the same at every step, so that their product is found once."""
        super().__init__(*args, **options)
        self.steady = steady

    def call(self, sequences, initial_state=None, mask=None, training=False):
        bias = tf.convert_to_tensor(self.cell.bias)
        bias, recurrent_bias = tf.unstack(bias) if len(bias.shape) == 2 else (bias, tf.zeros_like(bias))
        weights = [tf.convert_to_tensor(w) for w in (self.cell.kernel, self.cell.recurrent_kernel)]
        inputs = tf.transpose(sequences, (1, 0, 2))
        hidden, last = scan(self.gates, inputs, *weights, bias, recurrent_bias, self.steady)
        return tf.transpose(hidden, (1, 0, 2)) if self.return_sequences else last


class SimpleRNN(Scanned, keras.layers.SimpleRNN):
    gates = SimpleRNNGates


class LSTM(Scanned, keras.layers.LSTM):
    gates = LSTMGates


class GRU(Scanned, keras.layers.GRU):
    gates = GRUGates


def scan(gates, inputs, kernel, recurrent_kernel, bias, recurrent_bias, steady=0):
    """Hidden states ``(time, batch, units)`` of inputs ``(time, batch, inputs)`` from a zero state; the last too.

    The last ``steady`` inputs must be the same at every step.
    """

    @tf.custom_gradient
    def differentiable(*operands):
        hidden, last, befores, keeps = _forward(gates, steady, *operands)
        return (hidden, last), lambda *gradients: _backward(gates, steady, *gradients, *operands[:3], befores, keeps)

    return differentiable(inputs, kernel, recurrent_kernel, bias, recurrent_bias)


def _forward(gates, steady, inputs, kernel, recurrent_kernel, bias, recurrent_bias):
    """Time-major hidden states, and per step the states before it and what its gradient needs."""
    time, units = inputs.shape[0], recurrent_kernel.shape[0]
    projected = _array(_project(inputs, kernel, steady) + bias)
    state = tuple(tf.zeros((tf.shape(inputs)[1], units)) for _ in range(gates.states))
    _, kept = gates.forward(projected.read(0), tf.matmul(state[0], recurrent_kernel), state)  # only to count them

    def body(t, state, befores, keeps):
        after, kept = gates.forward(projected.read(t), tf.matmul(state[0], recurrent_kernel) + recurrent_bias, state)
        befores = tuple(array.write(t, value) for array, value in zip(befores, state, strict=True))
        keeps = tuple(array.write(t, value) for array, value in zip(keeps, kept, strict=True))
        return t + 1, after, befores, keeps

    empty = [tuple(tf.TensorArray(tf.float32, time) for _ in some) for some in (state, kept)]
    _, last, befores, keeps = tf.while_loop(lambda t, *_: t < time, body, (0, state, *empty))
    befores = [array.stack() for array in befores]
    hidden = tf.concat([befores[0][1:], last[0][tf.newaxis]], axis=0)
    return hidden, last[0], befores, [array.stack() for array in keeps]


def _backward(gates, steady, gradient, of_last, inputs, kernel, recurrent_kernel, befores, keeps):
    """Gradients of inputs, kernel, recurrent kernel, bias and recurrent bias, of that of all hidden states."""
    time = inputs.shape[0]
    gradient, states, kept = _array(gradient), [_array(s) for s in befores], [_array(k) for k in keeps]

    def body(t, later, of_sums):
        here = (later[0] + gradient.read(t), *later[1:])
        found, before = gates.backward(here, [s.read(t) for s in states], [k.read(t) for k in kept])
        before = (before[0] + tf.matmul(found[-1], recurrent_kernel, transpose_b=True), *before[1:])
        return t - 1, before, tuple(array.write(t, value) for array, value in zip(of_sums, found, strict=True))

    final = (of_last, *[tf.zeros_like(of_last) for _ in befores[1:]])
    empty = tuple(tf.TensorArray(tf.float32, time) for _ in range(gates.sums))
    *_, of_sums = tf.while_loop(lambda t, *_: t >= 0, body, (time - 1, final, empty))
    dx, *rest = [array.stack() for array in of_sums]
    (da,) = rest or [dx]
    return (
        _over_steps(dx, tf.transpose(kernel)),
        _kernel_gradient(inputs, dx, steady),
        tf.matmul(_flat(befores[0]), _flat(da), transpose_a=True),
        tf.reduce_sum(dx, axis=(0, 1)),
        tf.reduce_sum(da, axis=(0, 1)),
    )


def _project(inputs, kernel, steady: int):
    """The inputs' part of each step's sums ``(time, batch, width)``; that of the steady ones is found once."""
    moving = kernel.shape[0] - steady
    return _over_steps(inputs[:, :, :moving], kernel[:moving]) + tf.matmul(inputs[0, :, moving:], kernel[moving:])


def _kernel_gradient(inputs, dx, steady: int):
    moving = inputs.shape[2] - steady
    of_moving = tf.matmul(_flat(inputs[:, :, :moving]), _flat(dx), transpose_a=True)
    of_steady = tf.matmul(inputs[0, :, moving:], tf.reduce_sum(dx, axis=0), transpose_a=True)
    return tf.concat([of_moving, of_steady], axis=0)


def _flat(values):
    return tf.reshape(values, (-1, values.shape[-1]))


def _over_steps(inputs, kernel):
    """One product for all steps: ``(time, batch, inputs)`` to ``(time, batch, width)``."""
    return tf.reshape(tf.matmul(_flat(inputs), kernel), (inputs.shape[0], -1, kernel.shape[1]))


def _array(values):
    return tf.TensorArray(tf.float32, values.shape[0]).unstack(values)
