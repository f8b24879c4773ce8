"""The policy against numbers that the authors' code produced on a small random model."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from xvla.batch import Batch
from xvla.layouts.names import microsoft_name
from xvla.model import XVLA
from xvla.pretrained import load_pretrained

FOLDER = Path(__file__).parents[2] / "assets" / "xvla-official-tiny-ee6d"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(released_batch) -> tuple[XVLA, Batch, dict[str, Tensor], dict[str, Tensor]]:
    inputs = load_file(FOLDER / "inputs.safetensors")
    return (
        load_pretrained(FOLDER),
        released_batch(inputs),
        inputs,
        load_file(FOLDER / "outputs.safetensors"),
    )


def relative_error(given: Tensor, expected: Tensor) -> float:
    return ((given - expected).abs().max() / expected.abs().max()).item()


def test_features(reference) -> None:
    model, batch, _, outputs = reference
    vlm, aux = model.encode(batch)
    assert relative_error(vlm, outputs["vlm_features"]) < TOLERANCE
    assert relative_error(aux, outputs["aux_visual_inputs"]) < TOLERANCE


def test_masked_views_are_exactly_zero(reference) -> None:
    model, batch, _, _ = reference
    _, aux = model.encode(batch)
    tokens = aux.shape[1] // 2
    assert aux[2].abs().max() == 0
    assert aux[1, tokens:].abs().max() == 0
    assert aux[1, :tokens].abs().min() > 0


def test_losses(reference) -> None:
    model, batch, inputs, outputs = reference
    losses = model(batch, time=inputs["t"], noise=inputs["noise"])
    names = {k.removeprefix("loss.") for k in outputs if k.startswith("loss.")}
    assert set(losses) == names
    for name, value in losses.items():
        assert relative_error(value, outputs[f"loss.{name}"]) < TOLERANCE


def test_gradient_norms(reference) -> None:
    model, batch, inputs, _ = reference
    expected = json.loads((FOLDER / "grad_norms.json").read_text())
    expected["vlm.language_model.model.encoder.embed_tokens.weight"] = expected.pop(
        "vlm.language_model.model.shared.weight"
    )
    model.zero_grad()
    sum(model(batch, time=inputs["t"], noise=inputs["noise"]).values()).backward()
    norms = {microsoft_name(n): p.grad.norm().item() for n, p in model.named_parameters()}
    largest = max(expected.values())
    assert set(norms) == set(expected)
    wrong = {
        name: (norms[name], norm)
        for name, norm in expected.items()
        if abs(norms[name] - norm) > 1e-4 * norm + 1e-5 * largest
    }
    assert not wrong


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_sampled_actions(reference, steps: int) -> None:
    model, batch, inputs, outputs = reference
    actions = model.act(batch, steps=steps, noise=inputs["x1"])
    assert relative_error(actions, outputs[f"generated_steps{steps}"]) < TOLERANCE


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_kinds_agree(reference, attention: str) -> None:
    _, batch, inputs, outputs = reference
    model = load_pretrained(FOLDER, attention=attention)
    actions = model.act(batch, steps=2, noise=inputs["x1"])
    assert relative_error(actions, outputs["generated_steps2"]) < TOLERANCE
