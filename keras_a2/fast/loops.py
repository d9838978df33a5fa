"""Compiled loops for Keras's recurrent layers on a CPU: the same numbers, several times faster in training.

TensorFlow differentiates a loop by stacking every intermediate value and adding up each step's weight gradient. Here a
loop forwards stores what its gradient needs, a loop backwards computes the gradient of every step's sums, and one
product over all steps gives that of the weights. XLA compiles both.

Of one step, ``forward`` of a cell's gates takes x and a, the parts of input and state in the sums ``(batch, width)``,
and the state before; it gives the state after, and what ``backward`` needs. That gives the gradients of x and of a (one
where only their sum matters), and of the state before, its way through a left out. A state is a tuple of
``(batch, units)``, the hidden one first.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

State = tuple[tf.Tensor, ...]
LEAST_STEPS = 8  # a shorter loop is as fast in Keras's own layers


def compiled_loops(network: keras.Sequential) -> keras.Sequential:
    """A twin of ``network`` that shares its layers and variables, its recurrent layers' loops compiled.

    Train the twin, and ``network`` is trained. It is ``network`` itself where that is faster: on a GPU, whose own
    kernels Keras uses, and for loops of a few steps.

    Args:
        network: takes ``(batch, time, features)``.

    Raises:
        ValueError: a recurrent layer has an option that the compiled loops do not honour.
    """
    recurrent = [layer for layer in network.layers if type(layer) in GATES]
    if not recurrent or tf.config.list_physical_devices("GPU") or _steps(recurrent[0]) < LEAST_STEPS:
        return network
    layers = [CompiledLoop(layer) if layer in recurrent else layer for layer in network.layers]
    return keras.Sequential([keras.Input(network.input_shape[1:]), *layers], name=network.name)


def _steps(layer: keras.layers.RNN) -> int:
    """Steps of a layer's sequences; its input may come with a mask."""
    return keras.tree.flatten(layer.input)[0].shape[1]


def is_compiled(network: keras.Sequential) -> bool:
    """Whether it is a twin with compiled loops, which XLA can compile as a whole."""
    return any(isinstance(layer, CompiledLoop) for layer in network.layers)


class CompiledLoop(keras.layers.Layer):
    """A recurrent layer of Keras with its loop compiled; the variables are the layer's own.

    Raises:
        ValueError: the layer has an option, or is called with an argument, that the loop does not honour.
    """

    def __init__(self, layer: keras.layers.RNN):
        super().__init__(name=f"compiled_{layer.name}")
        defaults = type(layer)(1).get_config()
        free = {"name", "units", "return_sequences", "seed", "dtype", "trainable", "zero_output_for_mask"}
        changed = [
            option
            for option, value in layer.get_config().items()
            if option not in free and not option.endswith("initializer") and value != defaults[option]
        ]
        if changed:
            raise ValueError(f"the compiled loop of layer {layer.name!r} does not honour {', '.join(changed)}")
        self.layer, self.gates = layer, GATES[type(layer)]
        self.built = True

    def call(self, sequences: tf.Tensor, mask: Any = None, initial_state: Any = None) -> tf.Tensor:
        """Sequences ``(batch, time, features)`` to hidden states ``(batch, time, units)``, or the last one's."""
        if mask is not None or initial_state is not None:
            raise ValueError(f"the compiled loop of layer {self.layer.name!r} takes neither mask nor initial_state")
        cell = self.layer.cell
        bias = tf.convert_to_tensor(cell.bias)
        bias, recurrent_bias = tf.unstack(bias) if len(bias.shape) == 2 else (bias, tf.zeros_like(bias))
        kernels = [tf.convert_to_tensor(kernel) for kernel in (cell.kernel, cell.recurrent_kernel)]
        inputs = tf.transpose(sequences, (1, 0, 2))
        hidden, last = scan(self.gates, inputs, *kernels, bias, recurrent_bias)
        return tf.transpose(hidden, (1, 0, 2)) if self.layer.return_sequences else last

    def compute_output_shape(self, shape: tuple) -> tuple:
        """As the layer's own."""
        return self.layer.compute_output_shape(shape)


class SimpleRNNGates:
    """h = tanh(x + a) (Elman 1990)."""

    states, sums = 1, 1

    @staticmethod
    def forward(x: tf.Tensor, a: tf.Tensor, state: State) -> tuple[State, State]:
        """H after; h for the gradient."""
        h = tf.tanh(x + a)
        return (h,), (h,)

    @staticmethod
    def backward(gradients: State, state: State, stored: State) -> tuple[State, tuple]:
        """Of the sum; of h before only by way of the sum."""
        dx = gradients[0] * (1 - stored[0] ** 2)
        return (dx,), (0.0,)


class LSTMGates:
    """c = f c + i g, h = o tanh(c); Keras's order of the gates is i, f, g, o (Gers et al. 2000)."""

    states, sums = 2, 1

    @staticmethod
    def forward(x: tf.Tensor, a: tf.Tensor, state: State) -> tuple[State, State]:
        """H and c after; gates i, f, o, candidate g and tanh(c) for the gradient."""
        i, f, g, o = tf.split(x + a, 4, axis=1)
        gates = tf.sigmoid(tf.concat([i, f, o], axis=1))  # one block: XLA vectorises it
        i, f, o = tf.split(gates, 3, axis=1)
        g = tf.tanh(g)
        c = f * state[1] + i * g
        squashed = tf.tanh(c)
        return (o * squashed, c), (gates, g, squashed)

    @staticmethod
    def backward(gradients: State, state: State, stored: State) -> tuple[State, tuple]:
        """Of the four sums; of h before only by way of them, of c before by the forget gate."""
        gates, g, squashed = stored
        i, f, o = tf.split(gates, 3, axis=1)
        dh, dc = gradients
        dc = dc + dh * o * (1 - squashed**2)
        parts = [dc * g * i * (1 - i), dc * state[1] * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o)]
        return (tf.concat(parts, axis=1),), (0.0, dc * f)


class GRUGates:
    """h = z h + (1 - z) tanh(x_g + r a_g): the reset gate after the product (Cho et al. 2014, as Keras and cuDNN)."""

    states, sums = 1, 2

    @staticmethod
    def forward(x: tf.Tensor, a: tf.Tensor, state: State) -> tuple[State, State]:
        """H after; gates z, r, candidate g and the state's part of it for the gradient."""
        units = state[0].shape[1]
        gates = tf.sigmoid(x[:, : 2 * units] + a[:, : 2 * units])
        z, r = tf.split(gates, 2, axis=1)
        a_g = a[:, 2 * units :]
        g = tf.tanh(x[:, 2 * units :] + r * a_g)
        return (g + z * (state[0] - g),), (gates, g, a_g)

    @staticmethod
    def backward(gradients: State, state: State, stored: State) -> tuple[State, tuple]:
        """Of x's and of a's three sums, which differ by the reset gate; of h before by the update gate."""
        gates, g, a_g = stored
        z, r = tf.split(gates, 2, axis=1)
        dh = gradients[0]
        dg = dh * (1 - z) * (1 - g**2)
        dz, dr = dh * (state[0] - g) * z * (1 - z), dg * a_g * r * (1 - r)
        return (tf.concat([dz, dr, dg], axis=1), tf.concat([dz, dr, dg * r], axis=1)), (dh * z,)


GATES = {keras.layers.SimpleRNN: SimpleRNNGates, keras.layers.LSTM: LSTMGates, keras.layers.GRU: GRUGates}


def scan(gates: Any, *operands: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Hidden states ``(time, batch, units)`` of sequences from a zero state; the last one ``(batch, units)`` too.

    Args:
        gates: one of ``GATES``.
        operands: inputs ``(time, batch, features)``, kernel, recurrent kernel, bias and recurrent bias, as Keras's.
    """

    @tf.custom_gradient
    def differentiable(*operands: tf.Tensor) -> tuple:
        hidden, last, befores, stores = _forward(gates, *operands)
        return (hidden, last), lambda *gradients: _backward(gates, gradients, operands, befores, stores)

    return differentiable(*operands)


def _forward(
    gates: Any,
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    recurrent_bias: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, list, list]:
    """Time-major hidden states, and per step the states before it and what its gradient needs."""
    time, units = inputs.shape[0], recurrent_kernel.shape[0]
    projected = _array(_over_steps(inputs, kernel) + bias)
    state = tuple(tf.zeros((tf.shape(inputs)[1], units)) for _ in range(gates.states))
    _, stored = gates.forward(projected.read(0), tf.matmul(state[0], recurrent_kernel), state)  # only to count them

    def body(t, state, befores, stores):
        after, stored = gates.forward(projected.read(t), tf.matmul(state[0], recurrent_kernel) + recurrent_bias, state)
        befores = tuple(array.write(t, value) for array, value in zip(befores, state, strict=True))
        stores = tuple(array.write(t, value) for array, value in zip(stores, stored, strict=True))
        return t + 1, after, befores, stores

    empty = [tuple(tf.TensorArray(tf.float32, time) for _ in some) for some in (state, stored)]
    _, last, befores, stores = tf.while_loop(lambda t, *_: t < time, body, (0, state, *empty))
    befores = [array.stack() for array in befores]
    hidden = tf.concat([befores[0][1:], last[0][tf.newaxis]], axis=0)
    return hidden, last[0], befores, [array.stack() for array in stores]


def _backward(gates: Any, gradients: State, operands: State, befores: list, stores: list) -> State:
    """Gradients of inputs, kernel, recurrent kernel, bias and recurrent bias, of that of all hidden states."""
    inputs, kernel, recurrent_kernel, *_ = operands
    time, of_last = inputs.shape[0], gradients[1]
    gradient, states, stored = _array(gradients[0]), [_array(s) for s in befores], [_array(k) for k in stores]

    def body(t, later, of_sums):
        here = (later[0] + gradient.read(t), *later[1:])
        of_step, before = gates.backward(here, [s.read(t) for s in states], [k.read(t) for k in stored])
        before = (before[0] + tf.matmul(of_step[-1], recurrent_kernel, transpose_b=True), *before[1:])
        return t - 1, before, tuple(array.write(t, value) for array, value in zip(of_sums, of_step, strict=True))

    final = (of_last, *[tf.zeros_like(of_last) for _ in befores[1:]])
    empty = tuple(tf.TensorArray(tf.float32, time) for _ in range(gates.sums))
    *_, of_sums = tf.while_loop(lambda t, *_: t >= 0, body, (time - 1, final, empty))
    dx, *rest = [array.stack() for array in of_sums]
    (da,) = rest or [dx]
    return (
        _over_steps(dx, tf.transpose(kernel)),
        tf.matmul(_flat(inputs), _flat(dx), transpose_a=True),
        tf.matmul(_flat(befores[0]), _flat(da), transpose_a=True),
        tf.reduce_sum(dx, axis=(0, 1)),
        tf.reduce_sum(da, axis=(0, 1)),
    )


def _flat(values: tf.Tensor) -> tf.Tensor:
    """All steps of all sequences, one below the other: ``(time, batch, width)`` to ``(time * batch, width)``."""
    return tf.reshape(values, (-1, values.shape[-1]))


def _over_steps(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """One product for all steps: ``(time, batch, inputs)`` to ``(time, batch, width)``."""
    return tf.reshape(tf.matmul(_flat(inputs), kernel), (inputs.shape[0], -1, kernel.shape[1]))


def _array(values: tf.Tensor) -> tf.TensorArray:
    """The steps of ``(time, batch, width)``, which a loop can read one by one."""
    return tf.TensorArray(tf.float32, values.shape[0]).unstack(values)
