"""The training loop: step; due(log)? due(evaluate)? due(save)? stop requested -> save and leave."""

import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from scaling.cost import mfu_percent
from scaling.devices import peak_flops
from scaling.runs.checkpoints import TrainerState
from scaling.runs.folder import Run
from scaling.runs.log import RunLog
from scaling.schedule import learning_rates
from scaling.spec import RunSpec
from scaling.training import checkpoint
from scaling.training.ema import Ema
from scaling.training.engine import batch_plan, gradient_norms, update
from scaling.training.features import FeatureCache
from scaling.training.noise import step_noise
from scaling.training.validation import StoppedError, Validation
from scaling.training.watchdog import Watchdog
from xvla.data.samples import SampleKey
from xvla.domains import domain_rows

MAX_KEYS_NAMED = 8


class NonFiniteLossError(RuntimeError):
    """Loss or gradients became nan or infinite; names the step, ranks and samples."""


class Trainer:
    """One attempt at a run: owns the engine, the loader's position and the step counter."""

    def __init__(
        self,
        spec: RunSpec,
        engine: Any,
        loader: Any,
        *,
        log: RunLog | None,
        validation: Validation,
        cache: FeatureCache | None,
        home: Run,
        watchdog: Watchdog,
        ema: Ema | None = None,
        step: int = 0,
        owes_evaluation: bool = False,
    ) -> None:
        """Go on after `step` of the run at `home`.

        `owes_evaluation`: it was stopped in the evaluation due there.
        """
        self.watchdog, self.ema = watchdog, ema
        self.spec, self.engine, self.loader = spec, engine, loader
        self.log, self.validation, self.cache = log, validation, cache
        self.step, self._owes_evaluation = step, owes_evaluation
        self._saver = checkpoint.Saver(engine, home.checkpoints, keep=spec.engine, ema=ema)
        self.micro_batch, self.accumulation = batch_plan(spec)
        self._batches = iter(loader)
        self._peak = peak_flops(engine.device, spec.precision) if log else None
        self._clock = _Clock()
        self._val_l1: tuple[int, float | None] = (-1, None)
        self._rates: dict[str, float] = {}
        self._gradient_norms: dict[str, float] = {}
        self._samples_per_s = 0.0  # 0: not measured yet
        self._norm: Any = 0.0  # of the last update's gradient
        self._seen: list[tuple[list[SampleKey], torch.Tensor]] = []  # of the last step, by batch

    def fit(self, stop_requested: Callable[[], bool]) -> bool:
        """Train to the last step; return False when stopped early (saved, resumable)."""
        with self._saver:
            return self._fit(stop_requested)

    def _fit(self, stop_requested: Callable[[], bool]) -> bool:
        self._clock = _Clock()  # what came before was no training
        training_mode(self.spec, self.engine)
        if self._owes_evaluation and not self._evaluate():
            return False
        while self.step < self.spec.num_steps:
            self._set_learning_rates()
            losses = self._optimizer_step()
            self.step += 1
            self._clock.steps += 1
            stopping = self._agree(stop_requested() or self._saver.failed, losses)
            if self.ema:
                self.ema.update(self.step)
            if self._due(self.spec.engine.log_every) or self._last():
                self._log(losses)
            if self._due(self.spec.engine.eval_every) and not self._last():
                stopping = not self._evaluate() or stopping
            if self._save_is_due() or stopping:
                self._save(wait=stopping or self._last() or self._is_branch_point())
            if stopping and not self._last():
                return False
            self._beat("train")
        return True

    def _optimizer_step(self) -> dict[str, torch.Tensor]:
        """Run forward and backward over the micro-batches and one update; return mean losses."""
        totals: dict[str, torch.Tensor] = {}
        self._seen = []
        time_all, noise_all = step_noise(self.spec, self.step)
        for micro in range(self.accumulation):
            batch = self._next_batch()
            rows = self._rows(micro)
            device = self.engine.device
            keys = self.loader.last_keys
            features = self.cache.lookup(keys, device) if self.cache else None
            losses = self.engine(
                batch.to(device),
                time_all[rows].to(device),
                noise_all[rows].to(device),
                features,
            )
            total = torch.stack(list(losses.values())).sum()
            self._seen.append((keys, total.detach()))
            self.engine.backward(total)
            for name, value in {"train": total, **losses}.items():
                totals[name] = totals.get(name, 0.0) + value.detach() / self.accumulation
            if micro < self.accumulation - 1:
                self.engine.step()
        if self._log_is_due_after_this_step():
            self._gradient_norms = gradient_norms(self.engine)
        self._norm = update(self.engine)
        return totals

    def _next_batch(self) -> Any:
        began = time.perf_counter()
        batch = next(self._batches)
        self._clock.waiting += time.perf_counter() - began
        return batch

    def _rows(self, micro: int) -> slice:
        """Return this rank's rows of the global batch in the given micro-step."""
        first = (micro * dist.get_world_size() + dist.get_rank()) * self.micro_batch
        return slice(first, first + self.micro_batch)

    def _set_learning_rates(self) -> None:
        self._rates = learning_rates(self.spec, self.step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._rates[group["name"]]

    def _agree(self, stop: bool, losses: dict[str, torch.Tensor]) -> bool:
        """Return whether any rank was asked to stop; raise if a loss or a gradient is not finite.

        One message a step carries all three, so that no diverged state is ever evaluated, saved,
        branched from or trained on; reading it is the step's only wait for the device.
        """
        loss = losses["train"]
        norm = torch.as_tensor(self._norm, dtype=loss.dtype, device=loss.device).reshape(())
        values = torch.stack([loss, norm])
        flags = torch.cat([loss.new_tensor([stop]), ~values.isfinite()]).to(torch.int32)
        if dist.get_world_size() > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        stopping, bad_loss, bad_gradient = flags.bool().tolist()
        if bad_loss or bad_gradient:
            raise NonFiniteLossError(self._blame("loss" if bad_loss else "a gradient"))
        return stopping

    def _blame(self, what: str) -> str:
        """Return which ranks and samples gave what is not finite: of a loss those alone."""
        mine = [
            (keys, float(total))
            for keys, total in self._seen
            if what != "loss" or not torch.isfinite(total)
        ]
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, mine)
        named = [
            f"rank {rank}: loss {loss} of samples {_named(keys)}"
            for rank, batches in enumerate(found)
            for keys, loss in batches
        ]
        return (
            f"{what} is not finite at step {self.step}; {'; '.join(named)}; lower optim.lr (now "
            f"{self.spec.optim.lr}) or check the data with `scaling data inspect`; the last "
            "checkpoint is kept"
        )

    def _mean_losses(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        """Return the losses averaged over ranks."""
        names = list(losses)
        values = torch.stack([losses[name] for name in names]).float()
        dist.all_reduce(values)
        return dict(zip(names, (values / dist.get_world_size()).tolist(), strict=True))

    def _log(self, losses: dict[str, torch.Tensor]) -> None:
        means = self._mean_losses(losses)
        if self.log is None:
            return
        record = {f"loss/{name}": value for name, value in means.items()}
        record |= {f"lr/{name}": rate for name, rate in self._rates.items()}
        record |= {f"grad_norm/{name}": value for name, value in self._gradient_norms.items()}
        record |= self._clock.read(self.spec.global_batch_size, self.spec.resources.world_size)
        if self._peak:
            rate = record["throughput/samples_per_s"]
            cached = self.cache is not None
            record["mfu_percent"] = mfu_percent(self.spec, rate, self._peak, cached=cached)
        self._samples_per_s = record["throughput/samples_per_s"]
        self.log.log(self.step, self.step * self.spec.global_batch_size, record)

    def averaged(self) -> AbstractContextManager[None]:
        """Hold the running mean in the weights, where the run keeps one."""
        return self.ema.applied() if self.ema else nullcontext()

    def _evaluate(self) -> bool:
        """Evaluate and log; return False when asked to stop meanwhile: then it is still owed."""
        self._beat("evaluate")
        self._owes_evaluation = True
        try:
            with self._clock.paused(), self.averaged():
                metrics = self.validation.run("val", step=self.step, anchor_only=True)
        except StoppedError:
            return False
        training_mode(self.spec, self.engine)
        self._owes_evaluation = False
        self._val_l1 = (self.step, metrics.get("val/l1"))
        if self.log:
            self.log.log(self.step, self.step * self.spec.global_batch_size, metrics)
        return True

    def _save(self, *, wait: bool) -> None:
        self._beat("save")
        state = TrainerState(
            step=self.step,
            num_samples_seen=self.step * self.spec.global_batch_size,
            run_id=self.spec.run_id,
            world_size=dist.get_world_size(),
            zero_stage=self.spec.engine.zero_stage,
            val_l1=self._val_l1[1] if self._val_l1[0] == self.step else None,
            owes_evaluation=self._owes_evaluation,
            loader=self.loader.state_dict(),
            normaliser=self.validation.normaliser.to_dict(),
            domain_ids=domain_rows(self.spec.data),
        )
        with self._clock.paused():
            self._saver.save(state, wait=wait)

    def _beat(self, phase: str) -> None:
        self.watchdog.touch(f"step {self.step} ({phase})")
        if self.log:
            rate = self._samples_per_s
            left = (self.spec.num_steps - self.step) * self.spec.global_batch_size
            self.log.beat(self.step, phase, eta_s=left / rate if rate else None)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _save_is_due(self) -> bool:
        due = self._due(self.spec.engine.save_every)
        return due or self._is_branch_point() or self._last()

    def _is_branch_point(self) -> bool:
        return self.step in self.spec.engine.keep_steps

    def _last(self) -> bool:
        return self.step == self.spec.num_steps

    def _log_is_due_after_this_step(self) -> bool:
        after = self.step + 1
        every = self.spec.engine.log_every
        return after == self.spec.num_steps or (every > 0 and after % every == 0)


def training_mode(spec: RunSpec, engine: Any) -> None:
    """Switch dropout on, except in a frozen encoder, whose features must not vary."""
    engine.train()
    if spec.optim.freeze_vlm:
        engine.module.vlm.eval()


def _named(keys: list[Any]) -> str:
    shown = ", ".join(
        f"{domain}/{episode}@{start}" for domain, episode, start in keys[:MAX_KEYS_NAMED]
    )
    rest = len(keys) - MAX_KEYS_NAMED
    return f"{shown} and {rest} more" if rest > 0 else shown


class _Clock:
    """Measures training time between log lines, leaving out evaluation and saving."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.began, self.waiting, self.steps, self._away = time.perf_counter(), 0.0, 0, 0.0

    def paused(self) -> "_Clock":
        return self

    def __enter__(self) -> None:
        self._left = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._away += time.perf_counter() - self._left

    def read(self, batch_size: int, world_size: int) -> dict[str, float]:
        seconds = max(1e-9, time.perf_counter() - self.began - self._away)
        rate = self.steps * batch_size / seconds
        record = {
            "throughput/samples_per_s": rate,
            "throughput/samples_per_s_per_device": rate / world_size,
            "data_wait_percent": 100 * self.waiting / seconds,
        }
        if torch.cuda.is_available():
            stats = torch.cuda.memory_stats()
            record["memory/peak_active_gib"] = stats["active_bytes.all.peak"] / 2**30
            torch.cuda.reset_peak_memory_stats()
        else:  # the process's own peak, since its start
            kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            record["memory/peak_active_gib"] = kib / 2**20
        self._reset()
        return record
