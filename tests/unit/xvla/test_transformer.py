"""The soft-prompted transformer: layouts, orders and initial values that the released code has."""

import math

import pytest
import torch
from policy_cases import TINY, VARIANTS

from xvla.attention import attend, resolve
from xvla.transformer import (
    Attention,
    DomainAwareLinear,
    SoftPromptedTransformer,
    time_embedding,
)


def test_a_domain_row_is_in_by_out() -> None:
    layer = DomainAwareLinear(3, 2, num_domains=4)
    torch.nn.init.normal_(layer.bias.weight)
    x, domain = torch.randn(2, 5, 3), torch.tensor([3, 1])
    expected = torch.stack(
        [
            x[i] @ layer.fc.weight[d].reshape(3, 2) + layer.bias.weight[d]
            for i, d in enumerate(domain.tolist())
        ]
    )
    torch.testing.assert_close(layer(x, domain), expected)


def test_time_embedding_is_cosines_then_sines() -> None:
    embedding = time_embedding(torch.tensor([0.0, 0.7]), 32)
    frequency = math.exp(-math.log(100.0) * 5 / 16)
    assert torch.equal(embedding[0], torch.cat([torch.ones(16), torch.zeros(16)]))
    assert embedding[1, 5].item() == pytest.approx(math.cos(0.7 * frequency), abs=1e-6)
    assert embedding[1, 21].item() == pytest.approx(math.sin(0.7 * frequency), abs=1e-6)


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = SoftPromptedTransformer(VARIANTS["hetero"])
    table = model.action_encoder.fc.weight
    limit = math.sqrt(6 / sum(table.shape))
    assert limit * 0.99 < table.abs().max() <= limit
    assert model.vlm_proj.bias.weight.abs().max() == 0
    qkv = model.blocks[0].attn.qkv
    assert qkv.weight.abs().max() <= math.sqrt(6 / (32 + 96))
    assert qkv.bias.abs().max() == 0
    assert model.soft_prompt_hub.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.pos_emb.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_last_block_may_skip_tokens_that_are_not_read() -> None:
    torch.manual_seed(0)
    attention = Attention(TINY, "sdpa").eval()
    norm, x = torch.nn.LayerNorm(32), torch.randn(2, 11, 32)
    torch.testing.assert_close(attention(norm, x, 4), attention(norm, x)[:, :4])


def test_a_wrapped_projection_is_not_bypassed() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    attention = Attention(TINY, "sdpa").eval()
    doubled = Doubled(32, 96)
    doubled.load_state_dict(attention.qkv.state_dict())
    attention.qkv = doubled
    norm, x = torch.nn.LayerNorm(32), torch.randn(2, 11, 32)
    torch.testing.assert_close(attention(norm, x, 4), attention(norm, x)[:, :4])


def test_prompts_have_no_position_and_context_does() -> None:
    model = SoftPromptedTransformer(TINY).eval()
    vlm, aux, domain = torch.randn(2, 5, 24), torch.randn(2, 4, 24), torch.tensor([0, 2])
    before = model.context(vlm, aux, domain)
    with torch.no_grad():
        model.pos_emb[:, TINY.num_anchors] += 1
    after = model.context(vlm, aux, domain)
    torch.testing.assert_close(after.tokens[:, 0], before.tokens[:, 0] + 1)
    assert torch.equal(after.tokens[:, 1:], before.tokens[:, 1:])
    rows = model.soft_prompt_hub.weight[domain].view(2, 3, 32)
    assert torch.equal(after.prompts, rows)


def test_length_is_limited() -> None:
    model = SoftPromptedTransformer(TINY)
    with pytest.raises(ValueError, match="166 tokens, max_seq_len allows 160"):
        model.context(torch.zeros(1, 100, 24), torch.zeros(1, 60, 24), torch.tensor([0]))


def test_eager_equals_sdpa() -> None:
    query, key, value = (torch.randn(2, 4, n, 8) for n in (5, 9, 9))
    expected = attend(query, key, value, kind="sdpa")
    torch.testing.assert_close(attend(query, key, value, kind="eager"), expected)


def test_auto_is_sdpa_on_the_cpu() -> None:
    assert resolve("auto", device="cpu", dtype=torch.bfloat16) == "sdpa"
    assert resolve("auto", device="cuda", dtype=torch.float32) == "sdpa"
