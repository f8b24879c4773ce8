"""A run's model is built the way its engine fields say."""

from dataclasses import replace

import pytest

from scaling.training.initial import build_model
from sweeps._mixtures import simulated_run


@pytest.mark.parametrize("wanted", [True, False])
def test_engine_fields_reach_the_model(wanted: bool) -> None:
    spec = simulated_run("tiny-h16")
    engine = replace(spec.engine, activation_checkpointing=wanted, compile=wanted)
    model = build_model(replace(spec, engine=engine))
    assert model.transformer.activation_checkpointing is wanted
    assert model.vlm.activation_checkpointing is wanted
    compiled = model.transformer.blocks[0]._compiled_call_impl is not None
    assert compiled is wanted
