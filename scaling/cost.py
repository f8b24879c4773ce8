"""What a RunSpec amounts to in numbers: parameters, samples, FLOPs; torch-free."""

from dataclasses import dataclass

from scaling.document import plain
from scaling.flops import policy_flops, step_flops
from scaling.spec import RunSpec, Value
from xvla.params import num_params


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Parameter counts and the training FLOPs of a whole run.

    `num_params_trainable` leaves out a frozen VLM. FLOPs count every view of the config as
    present, so they are exact for three-view robots and an upper bound for the others. They are
    those of the released computation, so that a faster implementation does not move a law.
    """

    compute_flops: float
    num_params_policy: int
    num_params_total: int
    num_params_trainable: int


def cost_of(spec: RunSpec) -> Cost:
    """Return what a run amounts to."""
    counts = num_params(spec.model)
    frozen = counts["vlm"] if spec.optim.freeze_vlm else 0
    return Cost(
        num_params_total=counts["total"],
        num_params_policy=counts["policy"],
        num_params_trainable=counts["total"] - frozen,
        compute_flops=spec.num_steps * flops_per_step(spec, as_released=True),
    )


def flops_per_step(spec: RunSpec, *, as_released: bool = False) -> float:
    """Return forward and backward FLOPs of one optimizer step over all ranks.

    By default those that run (for utilisation); `as_released` as `scaling.flops` says.
    """
    return step_flops(
        spec.model,
        views=spec.data.num_views,
        image_size=spec.data.image_size,
        text_len=spec.data.text_length,
        batch_size=spec.global_batch_size,
        frozen_vlm=spec.optim.freeze_vlm,
        as_released=as_released,
    )


def export_row(spec: RunSpec) -> dict[str, Value | None]:
    """Return the columns of runs.parquet that the spec alone decides (contract, Files)."""
    domains = len(spec.data.mixture)
    return {
        "run_id": spec.run_id,
        "study": spec.study,
        "stage": spec.stage,
        "seed": spec.seeds.init,
        "size": spec.size,
        **plain(cost_of(spec)),
        "num_samples_seen": spec.num_samples_seen,
        "num_unique_episodes": spec.num_unique_episodes,
        "num_domains": domains,
        "episodes_per_domain": spec.num_unique_episodes / domains,
        "soft_prompt_length": spec.model.soft_prompt_length,
        "prediction_window_s": spec.data.prediction_window_s,
        "blind": spec.data.blind,
        **{f"axis_{name}": value for name, value in spec.axes.items()},
    }


def mfu_percent(spec: RunSpec, samples_per_s: float, peak_flops: float, *, cached: bool) -> float:
    """Return the model's FLOPs as a percentage of what all ranks could do (PaLM, appendix B).

    `peak_flops`: one rank's; `cached`: a frozen encoder's features are looked up, not computed.
    """
    flops = flops_per_step(spec)
    if cached:
        data = spec.data
        views, size, words = data.num_views, data.image_size, data.text_length
        policy = policy_flops(spec.model, views=views, image_size=size, text_len=words)
        flops = 3 * policy * spec.global_batch_size
    rate = flops * samples_per_s / spec.global_batch_size
    return 100 * rate / (peak_flops * spec.resources.world_size)
