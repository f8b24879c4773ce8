"""The generative objective: time sampling, noising, target, and the sampler.

Released behaviour (`prediction="clean"`, the default): t = 1 is pure noise, the network predicts
the clean chunk, and the sampler re-mixes one noise draw with the last prediction at every step.
The paper's equation (`prediction="velocity"`, section 3): t = 0 is pure noise, the network
predicts `action - noise`, and the sampler is Euler's method from t = 0 to 1.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["clean", "velocity"]
TIME_MODULUS = 1 - 1e-5  # keeps t below 1, as in the released code


def sample_time(batch_size: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Draw t [B] in [0, 1), stratified: one uniform number a batch, shifted by i / B."""
    offset = torch.rand(1, device=device)
    steps = torch.arange(batch_size, device=device) / batch_size
    return (offset + steps) % TIME_MODULUS


def add_noise(
    action: Tensor, noise: Tensor, time: Tensor, *, prediction: Prediction = "clean"
) -> Tensor:
    """Mix action and noise [B, T, A] at time [B]: t * noise + (1 - t) * action.

    For `velocity` the direction is the paper's: (1 - t) * noise + t * action.
    """
    weight = time.view(-1, 1, 1)
    if prediction == "velocity":
        weight = 1 - weight
    return weight * noise + (1 - weight) * action


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    steps: int,
    prediction: Prediction = "clean",
) -> Tensor:
    """Turn noise [B, T, A] into an action chunk with `steps` calls of predict(x, time [B])."""
    solver = _integrate_velocity if prediction == "velocity" else _remix_clean
    return solver(predict, noise, max(1, int(steps)))


def _remix_clean(predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """At t = 1, (S-1)/S, ..., 1/S mix the same noise with the last prediction and predict again.

    This is not Euler's method on the induced velocity; both agree only at the first update.
    """
    action = torch.zeros_like(noise)
    for i in range(steps, 0, -1):
        time = noise.new_full((noise.shape[0],), i / steps)
        action = predict(add_noise(action, noise, time), time)
    return action


def _integrate_velocity(
    predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int
) -> Tensor:
    action = noise
    for i in range(steps):
        time = noise.new_full((noise.shape[0],), i / steps)
        action = action + predict(action, time) / steps
    return action
