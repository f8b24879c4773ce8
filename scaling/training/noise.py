"""Flow-matching time and noise of a training step: a function of the seed and the step alone.

The released code draws them from the global generator on each rank; here row i of the *global*
batch gets the same pair whatever the ranks, the micro-batch and the interruptions.
"""

import hashlib

import torch

from scaling.spec import RunSpec
from xvla.params import action_dim

TIME_MODULUS = 1 - 1e-5  # t in [0, 0.99999), as released


def step_noise(spec: RunSpec, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return time [G] stratified over the global batch and noise [G, T, A] for `step`."""
    text = f"{spec.seeds.data}:{step}".encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    size = spec.global_batch_size
    offset = torch.rand(1, generator=generator)
    time = (offset + torch.arange(size) / size) % TIME_MODULUS
    shape = (size, spec.model.num_anchors, action_dim(spec.model))
    return time, torch.randn(shape, generator=generator)
