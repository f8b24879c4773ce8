"""The running mean of the weights, in one process and dealt out to two."""

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from scaling.training.ema import Ema


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    net[1].bias.requires_grad_(False)
    return net


def test_mean_by_hand(one_rank) -> None:
    net = model()
    frozen, first = net[1].bias.clone(), net[0].weight.detach().clone()
    ema = Ema(net, 0.5)
    expected = first.clone()
    for step in (1, 2, 9):
        with torch.no_grad():
            net[0].weight += 1
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net[0].weight.detach()
    raw = net[0].weight.detach().clone()
    with ema.applied():
        assert torch.allclose(net[0].weight, expected)
        assert torch.equal(net[1].bias, frozen)
    assert torch.equal(net[0].weight, raw)


def test_weights_return_after_an_error(one_rank) -> None:
    net = model()
    ema = Ema(net, 0.9)
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.raises(RuntimeError), ema.applied():
        raise RuntimeError
    assert not net[0].weight.any()


def test_files_of_two_ranks_are_read_by_one(one_rank, tmp_path, monkeypatch) -> None:
    net = model()
    with monkeypatch.context() as patch:
        patch.setattr(dist, "get_world_size", lambda: 2)
        for rank in (0, 1):
            patch.setattr(dist, "get_rank", lambda rank=rank: rank)
            ema = Ema(net, 0.9)
            assert len(ema.means) in (1, 2)  # three trainable parameters
            save_file(ema.means, tmp_path / f"ema_{rank:05d}.safetensors")
    before = net[1].weight.detach().clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    ema = Ema(net, 0.9)
    ema.load(tmp_path)
    with ema.applied():
        assert torch.equal(net[1].weight, before)
    (tmp_path / "ema_00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no running mean of 0\.bias"):
        ema.load(tmp_path)
