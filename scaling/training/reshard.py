"""Loads a DeepSpeed checkpoint of other world size or ZeRO stage: cut up by name, dealt anew.

DeepSpeed itself loads a ZeRO checkpoint on the number of ranks that saved it only. Each saved
partition carries a map from parameter names to its fragments; here the fragments this rank needs
are put into a partition of its own, in memory, and handed to DeepSpeed's own loader. Numbers are
moved, none is computed: weights, fp32 masters and moments are bit-identical.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scaling.training.engine import held_groups

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
Fragments = dict[str, list[tuple[int, torch.Tensor]]]


def can_reshard(stages: tuple[int, int], precision: str) -> bool:
    """Return whether `load` goes from stage to stage; bf16 at stage 0 is kept otherwise."""
    return precision == "fp32" or 0 not in stages


def load(engine: Any, folder: Path, *, step: int) -> None:
    """Put the weights and the optimizer's state of `folder` (deepspeed/) into the engine."""
    model_file = folder / "mp_rank_00_model_states.pt"
    model_state = torch.load(model_file, map_location="cpu", mmap=True, weights_only=False)
    engine.module.load_state_dict(model_state["module"])
    shards = _shards(folder)
    names = group_names(engine)
    saved = _from_zero(shards) if shards else _from_torch(model_state, names)
    if hasattr(engine.optimizer, "single_partition_of_fp32_groups"):
        _into_zero(engine, saved)
    else:
        _into_torch(engine, saved, names)
    engine.global_steps = step
    engine.global_samples = step * engine.train_batch_size()
    engine.micro_steps = step * engine.gradient_accumulation_steps()


class _Saved:
    """Fragments by state and parameter name, with torch's step count of each group."""

    def __init__(self) -> None:
        self.fragments: dict[str, Fragments] = {key: {} for key in (MASTER, *MOMENTS)}
        self.steps: list[torch.Tensor] = []

    def add(self, key: str, name: str, fragment: torch.Tensor) -> None:
        """Append the next fragment of a parameter; they come in the order of ranks."""
        known = self.fragments[key].setdefault(name, [])
        start = known[-1][0] + known[-1][1].numel() if known else 0
        known.append((start, fragment.flatten()))

    def read(self, key: str, name: str, span: tuple[int, int]) -> torch.Tensor:
        """Return elements start..start + count of the flattened parameter."""
        start, count = span
        parts = []
        for at, fragment in self.fragments[key][name]:
            low, high = max(start, at), min(start + count, at + fragment.numel())
            if low < high:
                parts.append(fragment[low - at : high - at])
        found = torch.cat(parts) if parts else torch.empty(0)
        if found.numel() != count:
            raise ValueError(f"the checkpoint holds {found.numel()} of {count} numbers of {name}")
        return found


def _shards(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(
        folder.glob("*zero_pp_rank_*_optim_states.pt"),
        key=lambda path: int(path.name.split("zero_pp_rank_")[1].split("_")[0]),
    )
    loaded = (torch.load(p, map_location="cpu", mmap=True, weights_only=False) for p in paths)
    return [item["optimizer_state_dict"] for item in loaded]


def _from_zero(shards: list[dict[str, Any]]) -> _Saved:
    saved = _Saved()
    for shard in shards:
        states = shard["base_optimizer_state"]["state"]
        for group, mapping in enumerate(shard["param_slice_mappings"]):
            flat = {MASTER: shard["single_partition_of_fp32_groups"][group]}
            flat |= {key: states[group][key] for key in MOMENTS}
            for name, place in mapping.items():
                for key, numbers in flat.items():
                    saved.add(key, name, numbers[place.start : place.start + place.numel])
    count = len(shards[0]["param_slice_mappings"])
    saved.steps = [shards[0]["base_optimizer_state"]["state"][i]["step"] for i in range(count)]
    return saved


def _from_torch(model_state: dict[str, Any], names: list[list[str]]) -> _Saved:
    """Read stage 0: torch's own state, parameters numbered in the order of the groups."""
    saved, optimizer = _Saved(), model_state["optimizer"]
    for group, members in zip(optimizer["param_groups"], names, strict=True):
        for number, name in zip(group["params"], members, strict=True):
            state = optimizer["state"][number]
            saved.add(MASTER, name, model_state["module"][name])
            for key in MOMENTS:
                saved.add(key, name, state[key])
        saved.steps.append(optimizer["state"][group["params"][0]]["step"])
    return saved


def group_names(engine: Any) -> list[list[str]]:
    """Return the names of the parameters in each group of the engine's optimizer."""
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    return [[names[id(parameter)] for parameter in group] for group in held_groups(engine)]


def _into_zero(engine: Any, saved: _Saved) -> None:
    """Give DeepSpeed's loader the partition it would have saved on this rank."""
    optimizer = engine.optimizer
    own = optimizer.state_dict()
    states = {}
    for group, flat in enumerate(optimizer.single_partition_of_fp32_groups):
        filled = {key: torch.zeros(flat.numel()) for key in (MASTER, *MOMENTS)}
        for name, place, span in _own_fragments(optimizer, group):
            for key, numbers in filled.items():
                numbers[place.start : place.start + place.numel] = saved.read(key, name, span)
        own["single_partition_of_fp32_groups"][group] = filled.pop(MASTER)
        states[group] = {"step": saved.steps[group].clone(), **filled}
    own["base_optimizer_state"] = {**own["base_optimizer_state"], "state": states}
    optimizer.load_state_dict(
        [own] * dist.get_world_size(), load_optimizer_states=True, load_from_fp32_weights=True
    )


def _own_fragments(optimizer: Any, group: int) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Yield name, place in this rank's partition, and span within the parameter."""
    for parameter in optimizer.bit16_groups[group]:
        mapping = parameter._hp_mapping
        if mapping is not None:
            inside = mapping.lp_fragment_address
            name = optimizer.param_names[parameter]
            yield name, mapping.hp_fragment_address, (inside.start, inside.numel)


def _into_torch(engine: Any, saved: _Saved, names: list[list[str]]) -> None:
    optimizer = engine.optimizer
    for group, members, step in zip(optimizer.param_groups, names, saved.steps, strict=True):
        for parameter, name in zip(group["params"], members, strict=True):
            span = (0, parameter.numel())
            with torch.no_grad():
                parameter.copy_(saved.read(MASTER, name, span).view_as(parameter))
            moments = {key: saved.read(key, name, span).view_as(parameter) for key in MOMENTS}
            on_device = {key: value.to(parameter.device) for key, value in moments.items()}
            # The fused kernel counts where it computes, torch's others on the CPU.
            count = step.to(parameter.device, copy=True) if group["fused"] else step.clone()
            optimizer.state[parameter] = {"step": count, **on_device}
