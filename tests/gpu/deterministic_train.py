"""scaling.train under deterministic algorithms; $STOP_AFTER kills it without warning at a step."""

import os
import signal
import sys
from typing import Any

import torch

import scaling.training.trainer
from scaling.train import main

step_noise = scaling.training.trainer.step_noise


def killed_at(last: int) -> Any:
    def noise(spec: Any, step: int) -> Any:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return step_noise(spec, step)

    return noise


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    if last := os.environ.get("STOP_AFTER"):
        scaling.training.trainer.step_noise = killed_at(int(last))
    sys.exit(main(sys.argv[1:]))
