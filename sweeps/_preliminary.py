"""The set-up in which prompt length and prediction window are compared, at both scales.

Paper, C.4 and appendix H: a small model on one node of 8 A100s, batch 256, 100K iterations.
"""

from dataclasses import replace

from scaling.spec import ResourceConfig, RunSpec
from sweeps._mixtures import paper_run, simulated_run

WINDOWS_S = (1.0, 2.0, 4.0, 8.0)  # Table 7


def preliminary_run(size: str, *, seed: int = 0) -> RunSpec:
    """Return a run of C.4 at the given size."""
    spec = paper_run(size, seed=seed)
    node = ResourceConfig(nodes=1, gpus_per_node=8)
    return replace(spec, global_batch_size=256, num_steps=100_000, resources=node)


def small_run(size: str, *, seed: int = 0) -> RunSpec:
    """Return its stand-in on a CPU: the anchor domain and three others, half the episodes.

    A checkpoint is kept at half way, where a search may compare runs and stop the worst.
    """
    spec = simulated_run(size, episodes=20, domains=4, seed=seed)
    return replace(spec, engine=replace(spec.engine, keep_every=250))


def with_prompt_length(spec: RunSpec, length: int) -> RunSpec:
    """Return `spec` with soft prompts of `length` tokens a domain."""
    return replace(spec, model=replace(spec.model, soft_prompt_length=length))


def with_window(spec: RunSpec, window_s: float) -> RunSpec:
    """Return `spec` predicting `window_s` seconds ahead with the same number of anchors."""
    return replace(spec, data=replace(spec.data, prediction_window_s=window_s))
