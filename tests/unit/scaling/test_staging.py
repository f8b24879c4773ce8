"""Copies for a staged checkpoint, and the one thread that writes them."""

import json
import threading
from pathlib import Path

import pytest
import torch

from scaling.runs.checkpoints import TrainerState
from scaling.spec import EngineConfig
from scaling.training import checkpoint, staging
from scaling.training.checkpoint import Saver
from scaling.training.staging import Buffers, _owned

pytestmark = pytest.mark.usefixtures("one_rank")


class Engine:
    """Saves through its checkpoint engine, as DeepSpeed does."""

    def __init__(self) -> None:
        self.module, self.checkpoint_engine = torch.nn.Linear(2, 2), object()

    def save_checkpoint(self, folder: str, *, tag: str, save_latest: bool) -> None:
        (Path(folder) / tag).mkdir()
        state = {"module": self.module.state_dict(), "step": 1}
        self.checkpoint_engine.save(state_dict=state, path=f"{folder}/{tag}/model.pt")


@pytest.fixture
def engine(monkeypatch) -> Engine:
    def published(module, folder, own):
        kept = own(module.weight.detach())
        return lambda: torch.save(kept, folder / "weights.pt")

    monkeypatch.setattr(staging, "_published", published)
    return Engine()


@pytest.fixture
def gate(monkeypatch) -> threading.Event:
    """Writing waits for it."""
    opened, finish = threading.Event(), checkpoint._finish

    def finish_later(*args) -> None:
        assert opened.wait(300)
        finish(*args)

    monkeypatch.setattr(checkpoint, "_finish", finish_later)
    return opened


def saver(engine: Engine, tmp_path: Path, *, staged: bool = True) -> Saver:
    return Saver(engine, tmp_path / "checkpoints", keep=EngineConfig(async_save=staged))


def test_what_is_staged_is_what_was_there(tmp_path, engine, gate) -> None:
    before = engine.module.weight.detach().clone()
    with saver(engine, tmp_path) as found:
        found.save(TrainerState(step=1), wait=False)
        with torch.no_grad():
            engine.module.weight.zero_()
        assert not (tmp_path / "checkpoints" / "step_0000001").exists()
        gate.set()
    folder = tmp_path / "checkpoints" / "step_0000001"
    assert checkpoint.verify(folder) is None
    assert (tmp_path / "checkpoints" / "latest").read_text() == folder.name
    assert torch.equal(torch.load(folder / "deepspeed/model.pt")["module"]["weight"], before)
    assert torch.equal(torch.load(folder / "weights.pt"), before)
    assert json.loads((folder / "trainer.json").read_text())["step"] == 1


def test_both_ways_write_the_same_files(tmp_path, engine) -> None:
    digests = []
    for staged in (False, True):
        with saver(engine, tmp_path / str(staged), staged=staged) as found:
            (tmp_path / str(staged)).mkdir()
            found.save(TrainerState(step=1))
        folder = tmp_path / str(staged) / "checkpoints" / "step_0000001"
        digests.append(json.loads((folder / "manifest.json").read_text()))
    assert digests[0] == digests[1]


def test_there_is_never_a_second_save_under_way(tmp_path, engine, gate) -> None:
    found = saver(engine, tmp_path)
    found.save(TrainerState(step=1), wait=False)
    threading.Timer(0.3, gate.set).start()
    found.save(TrainerState(step=2), wait=False)  # waits for the timer
    assert (tmp_path / "checkpoints" / "step_0000001").exists()
    found.wait()
    assert checkpoint.newest_valid(tmp_path / "checkpoints").name == "step_0000002"


def test_a_failure_is_raised_at_the_next_call(tmp_path, engine, monkeypatch) -> None:
    found = saver(engine, tmp_path)
    found.save(TrainerState(step=1))

    def broken(*_) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(checkpoint, "_finish", broken)
    found.save(TrainerState(step=2), wait=False)
    found._thread.join()
    assert found.failed
    with pytest.raises(RuntimeError, match="the disk is gone"):
        found.save(TrainerState(step=3))
    assert [path.name for path in (tmp_path / "checkpoints").glob("*")] != []
    assert checkpoint.newest_valid(tmp_path / "checkpoints").name == "step_0000001"
    assert not list((tmp_path / "checkpoints").glob(".step_*"))


def test_an_error_of_the_training_comes_first(tmp_path, engine, monkeypatch, caplog) -> None:
    def diverge() -> None:
        with saver(engine, tmp_path) as found:
            found.save(TrainerState(step=1), wait=False)
            raise KeyError

    monkeypatch.setattr(checkpoint, "_finish", lambda *_: 1 / 0)
    with pytest.raises(KeyError):
        diverge()
    assert "the checkpoint under way is lost: division by zero" in caplog.text


def test_buffers_are_kept_and_copies_shared() -> None:
    buffers, weight = Buffers(), torch.ones(3, 2)
    first = buffers.copied(weight)
    assert buffers.copied(weight.detach()) is first  # two names of one tensor
    other = buffers.copied(weight[1:])
    assert (first.data_ptr(), other.tolist()) != (weight.data_ptr(), [])
    buffers.release()
    weight += 1
    again = buffers.copied(weight)
    assert again.data_ptr() == first.data_ptr()
    assert again.eq(2).all()
    assert buffers.copied(torch.zeros(5)).shape == (5,)  # another shape: memory of its own
    buffers.release()


def test_the_mean_is_published_from_memory_that_is_kept(tmp_path, engine, monkeypatch) -> None:
    """The weights with the mean are the trained tensors again, and not what was copied of those."""
    from scaling.training.ema import Ema

    published = []

    def note(module, folder, own):
        published.append(own(module.weight.detach()))
        return lambda: torch.save(published[-1], folder / "weights.pt")

    monkeypatch.setattr(staging, "_published", note)
    mean = Ema(engine.module, 0.5)
    keep = EngineConfig(async_save=True)
    with Saver(engine, tmp_path / "checkpoints", keep=keep, ema=mean) as found:
        for step in (1, 2):
            with torch.no_grad():
                engine.module.weight.fill_(step)
            mean.update(step)
            found.save(TrainerState(step=step))
            folder = tmp_path / "checkpoints" / f"step_{step:07d}"
            assert torch.equal(torch.load(folder / "weights.pt"), mean.means["weight"])
            trained = torch.load(folder / "deepspeed/model.pt")["module"]["weight"]
            assert trained.eq(step).all()
    assert published[0].data_ptr() == published[1].data_ptr()


def test_state_dicts_are_copied_through_and_through() -> None:
    weight, step = torch.ones(2), [1]
    state = {"a": {"w": weight, "t": (weight, 2)}, "l": [weight], "o": step, "s": weight.shape}
    owned = _owned(state, torch.clone)
    weight.zero_()
    step.append(2)
    assert owned["a"]["w"].eq(1).all()
    assert owned["a"]["t"][0].eq(1).all()
    assert owned["l"][0].eq(1).all()
    assert (owned["o"], owned["s"]) == ([1], torch.Size([2]))
