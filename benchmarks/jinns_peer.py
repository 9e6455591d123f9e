"""What both benchmarks against jinns 1.10.2 need: its self-scaled Broyden and natural gradient, run and timed.

jinns gets the start that thalweg gets, Adam, and its optimizers as they come. Its own seconds of training are taken,
without compiling; one error in so many iterations is measured by its own hook for validation.
"""

import contextlib
import io
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jinns
import numpy as np
import optax
from jinns.optimizers import scale_by_SSBroyden_family, vanilla_ngd
from jinns.parameters import Params
from jinns.solver import GetJinnsVariableName
from jinns.validation import AbstractValidationModule


def callback_value_fn(params, loss, batch):
    """The loss at other parameters, for the line search (jinns wants this prefix)."""
    return loss(params, batch)[0]


def callback_grad_fn(params, loss, batch):
    """Its gradient."""
    return jax.grad(lambda at: loss(at, batch)[0])(params)


PLUMBING = {
    "value": GetJinnsVariableName("train_loss_value"),
    "grad_pt": GetJinnsVariableName("grads"),
    "value_fn": callback_value_fn,
    "grad_fn": callback_grad_fn,
    "loss": GetJinnsVariableName("loss"),
    "batch": GetJinnsVariableName("batch"),
}


class Watch(AbstractValidationModule):
    """The relative L2 error as jinns's criterion of validation; it never stops a run."""

    u: Any
    places: jax.Array
    truth: jax.Array
    call_every: int = eqx.field(kw_only=True)

    def __call__(self, params):
        found = jax.vmap(lambda at: jnp.squeeze(self.u(at, params)))(self.places)
        error = jnp.linalg.norm(found - self.truth) / jnp.linalg.norm(self.truth)
        return self, jnp.asarray(False), error, jnp.asarray(False)


@dataclass
class Trained:
    """A run of jinns.

    Attributes:
        errors: (seconds of training, relative L2 error) in order.
        seconds: of training.
        compiling: seconds before it.
        loss: the last.
        params: the last that were finite.
    """

    errors: list[tuple[float, float]]
    seconds: float
    compiling: float
    loss: float
    params: Params

    def reached(self, level: float) -> float | None:
        """Seconds to an error, or None."""
        return next((seconds for seconds, error in self.errors if error <= level), None)


def mlp(seed: int, width: int, depth: int, kind: Any, given: Callable, output: Callable) -> Any:
    """A network of its own, tanh, two numbers to one; what is done to its input and to its output."""
    layers: list = [(eqx.nn.Linear, 2, width), (jnp.tanh,)]
    layers += [(eqx.nn.Linear, width, width), (jnp.tanh,)] * (depth - 1) + [(eqx.nn.Linear, width, 1)]
    made = jinns.nn.PINN_MLP.create(
        key=jax.random.key(seed), eqx_list=tuple(layers), eq_type=kind, input_transform=given, output_transform=output
    )
    return made[0]


def trained(u, params, data, loss, steps: int, places, truth, *, natural: bool, adam: int, every: int) -> Trained:
    """Adam, then one of the two; call it under 64 bits."""
    watch = Watch(u, jnp.asarray(places), jnp.asarray(truth), call_every=every)
    errors, seconds, compiling, last = [], 0.0, 0.0, float("nan")
    second = (vanilla_ngd(), None) if natural else (scale_by_SSBroyden_family(), PLUMBING)
    for count, (optimizer, extra) in ((adam, (optax.adam(5e-3), None)), (steps, second)):
        said, began = io.StringIO(), time.perf_counter()
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = jinns.solve(
                n_iter=count, init_params=params, data=data, loss=loss, optimizer=optimizer, validation=watch,
                extra_optax_args_and_kwargs=extra,
            )  # fmt: skip
            jax.effects_barrier()
        took = time.perf_counter() - began
        found = re.search(r"Training took\s+([0-9.e+-]+)", said.getvalue())
        assert found, "jinns did not say how long it trained"
        training = float(found[1])
        params, losses, criterion = result[0], np.asarray(result[1]), np.asarray(result[10])
        # A run that ends in NaN ends before its last iteration; the rest of its arrays is 0.
        done = int(np.flatnonzero(losses)[-1]) + 1
        errors += [(seconds + training * (i + 1) / done, float(criterion[i])) for i in range(0, done, every)]
        seconds, compiling, last = seconds + training, compiling + took - training, float(losses[done - 1])
    return Trained(errors, seconds, compiling, last, params)
