"""scaling.train with a fault asked for by $FAULT: `kind:rank:step`; a rank of -1 means all."""

import errno
import importlib
import math
import os
import signal
import time

import torch

import scaling.branch
import scaling.training.attempt
import scaling.training.checkpoint
import scaling.training.trainer
from jobs.local.forkserver import TRAINING_STACK
from scaling.train import main as train

for name in TRAINING_STACK:
    importlib.import_module(name)
torch.set_num_threads(1)
step_noise = scaling.training.trainer.step_noise


def main(argv: list[str]) -> int:
    """Train with the fault in the source of each step's noise, or in the clock."""
    kind, _, where = os.environ.get("FAULT", "").partition(":")
    if kind:
        rank, step = (int(number) for number in where.split(":"))
        if kind == "small":
            scaling.training.attempt.memory_available = lambda *_, **__: 2**20
            return train(argv)
        if kind == "patient":  # a silent trunk is waited for for ever
            scaling.branch.PATIENCE_S = math.inf
            return train(argv)
        if kind in ("SIGTERM", "SIGUSR1"):
            _signal_in_step(kind, rank, step)
            return train(argv)
        if kind == "nangrad":
            _spoil_gradient(rank, step)
            return train(argv)
        if kind == "termeval":
            _signal_in_evaluation(rank, step)
            return train(argv)
        if kind in ("slowsave", "nosave"):
            _spoil_saves(kind, rank, step)
            return train(argv)
        spoil = {"nan": _nan, "hang": _hang, "clock": _clock, "slow": _slow, "oom": _oom}[kind]
        scaling.training.trainer.step_noise = _at(rank, step, spoil)
    return train(argv)


def _at(rank: int, step: int, spoil):
    def noise_of(spec, now):
        pair = step_noise(spec, now)
        mine = rank in (-1, int(os.environ["RANK"]))
        return spoil(spec, pair) if mine and now >= step else pair

    return noise_of


def _spoil_saves(kind: str, rank: int, step: int) -> None:
    """Make each save after one of `step` take long, or fail on one rank for want of space."""
    write = scaling.training.checkpoint.Saver._write

    def spoiled(self, writes, aside, state):
        def first():
            if state.step > step and rank in (-1, int(os.environ["RANK"])):
                if kind == "nosave":
                    raise OSError(errno.ENOSPC, "no space left on device", str(aside))
                time.sleep(5)

        write(self, [first, *writes], aside, state)

    scaling.training.checkpoint.Saver._write = spoiled


def _spoil_gradient(rank: int, step: int) -> None:
    """Give one parameter a gradient of nan in the update after `step`; the loss stays finite."""
    trainer = scaling.training.trainer.Trainer
    update = trainer._optimizer_step

    def spoiled(self):
        if self.step == step and rank in (-1, int(os.environ["RANK"])):
            weight = next(p for p in self.engine.module.parameters() if p.requires_grad)
            weight.register_hook(lambda gradient: gradient * float("nan"))
        return update(self)

    trainer._optimizer_step = spoiled


def _signal_in_step(name: str, rank: int, step: int) -> None:
    """Have a rank get a signal, once, in the step after `step`."""

    def struck(spec, pair):
        if not struck_at:
            struck_at.append(step)
            os.kill(os.getpid(), signal.Signals[name])
        return pair

    struck_at: list[int] = []
    scaling.training.trainer.step_noise = _at(rank, step, struck)


def _signal_in_evaluation(rank: int, number: int) -> None:
    """Have a rank get SIGTERM at its evaluation batch of that number, from 1 on."""
    touch, seen = scaling.training.attempt.Watchdog.touch, []

    def struck(self, where):
        touch(self, where)
        if where.startswith("an evaluation batch") and rank == int(os.environ["RANK"]):
            seen.append(where)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGTERM)

    scaling.training.attempt.Watchdog.touch = struck


def _nan(spec, pair):
    return pair[0], pair[1] * float("nan")


def _hang(spec, pair):
    time.sleep(10_000)
    return pair


def _oom(spec, pair):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")


def _slow(spec, pair):
    time.sleep(0.05)
    return pair


def _clock(spec, pair):
    """Set the wall clock of the process back by an hour, then forth by two, for good."""
    real = scaling.training.trainer.__dict__.setdefault("_real_time", time.time)
    jump = -3600 if real is time.time else 3600
    time.time = lambda: real() + jump
    return pair
