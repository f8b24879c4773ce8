"""The soft-prompted transformer: action, vision-language and prompt tokens in one sequence.

Shapes: B batch, T anchors, A action dim, P proprio dim, S sequence, D width, E encoder width.
Sequence order: [T action | vision-language | auxiliary views] + positions, then soft prompts,
which carry no position. Attention is full; masked views stay in the sequence.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xvla.attention import AttentionKind, attend
from xvla.config import ModelConfig
from xvla.dropout import dropout
from xvla.linear import Linear, linear
from xvla.params import action_dim, proprio_dim
from xvla.recompute import activated_linear, normed_linear

TIME_MAX_PERIOD = 100.0
INIT_STD = 0.02


class DomainAwareLinear(nn.Module):
    """A linear layer with one weight matrix and bias per domain, kept as embedding tables.

    A row of `fc` is the matrix [in, out], row-major: the transpose of nn.Linear's storage.
    """

    def __init__(self, dim_in: int, dim_out: int, num_domains: int) -> None:
        super().__init__()
        self.dim_in, self.dim_out = dim_in, dim_out
        self.fc = nn.Embedding(num_domains, dim_in * dim_out)
        self.bias = nn.Embedding(num_domains, dim_out)
        # The released code initialises the table as one [domains, in * out] matrix.
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, domain_id: Tensor) -> Tensor:
        """Map x [B, S, in] to [B, S, out] with the matrices of domain_id [B]."""
        weight = self.fc(domain_id).view(-1, self.dim_in, self.dim_out)
        return torch.baddbmm(self.bias(domain_id).unsqueeze(1), x, weight)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection, laid out as (3, heads, head dim)."""

    def __init__(self, config: ModelConfig, kind: AttentionKind) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout
        self.kind: AttentionKind = kind
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, norm: nn.LayerNorm, x: Tensor, num_queries: int | None = None) -> Tensor:
        """Norm x [B, S, D], attend from its first `num_queries` tokens (all by default) to all."""
        query, key, value = self._project(norm, x, num_queries)
        dropout = self.dropout if self.training else 0.0
        out = attend(query, key, value, kind=self.kind, dropout=dropout)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _project(
        self, norm: nn.LayerNorm, x: Tensor, num_queries: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, _, dim = x.shape
        shape = (batch, -1, 3, self.num_heads, dim // self.num_heads)
        # An adapter may have wrapped the layer; slicing its weight would then bypass the adapter.
        if num_queries is None or type(self.qkv) is not Linear:
            query, key, value = normed_linear(norm, self.qkv, x).view(shape).permute(2, 0, 3, 1, 4)
            return query[:, :, :num_queries], key, value
        x, weight, bias = norm(x), self.qkv.weight, self.qkv.bias
        query = linear(x[:, :num_queries], weight[:dim], bias[:dim])
        key_value = linear(x, weight[dim:], bias[dim:])
        key, value = key_value.view(batch, -1, 2, *shape[3:]).permute(2, 0, 3, 1, 4)
        return query.view(batch, -1, *shape[3:]).transpose(1, 2), key, value


class Mlp(nn.Module):
    """Two linear layers with the tanh-approximate GELU and dropout after each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = int(config.hidden_size * config.mlp_ratio)
        self.dropout = config.dropout
        self.fc1 = Linear(config.hidden_size, hidden)
        self.fc2 = Linear(hidden, config.hidden_size)

    def forward(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        """Norm and transform each token of x [B, S, D]."""
        p = self.dropout if self.training else 0.0
        hidden = activated_linear(
            self.fc2, normed_linear(norm, self.fc1, x), approximate="tanh", p=p
        )
        return dropout(hidden, p, self.training)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ModelConfig, kind: AttentionKind) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.attn = Attention(config, kind)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """Return the first `num_queries` tokens (all by default) of the block's output."""
        x = x[:, :num_queries] + self.attn(self.norm1, x, num_queries)
        return x + self.mlp(self.norm2, x)


class Context(NamedTuple):
    """What does not change between denoising steps: tokens [B, S, D] and prompts [B, K, D]."""

    tokens: Tensor
    prompts: Tensor | None


class SoftPromptedTransformer(nn.Module):
    """Predict an action chunk from a noisy one, conditioned on encoder features and the domain."""

    def __init__(self, config: ModelConfig, *, attention: AttentionKind = "auto") -> None:
        super().__init__()
        dim, domains = config.hidden_size, config.num_domains
        self.config = config
        self.activation_checkpointing = False
        self.blocks = nn.ModuleList(Block(config, attention) for _ in range(config.depth))
        self.vlm_proj = _projection(config)
        self.aux_visual_proj = _projection(config)
        self.pos_emb = nn.Parameter(torch.empty(1, config.max_seq_len, dim))
        self.norm = nn.LayerNorm(dim)
        actions = action_dim(config)
        inputs = actions + proprio_dim(config) + config.dim_time
        self.action_encoder = DomainAwareLinear(inputs, dim, domains)
        self.action_decoder = DomainAwareLinear(dim, actions, domains)
        if config.soft_prompt_length > 0:
            self.soft_prompt_hub = nn.Embedding(domains, config.soft_prompt_length * dim)
            nn.init.normal_(self.soft_prompt_hub.weight, std=INIT_STD)
        nn.init.normal_(self.pos_emb, std=INIT_STD)
        self.apply(_init_linear)

    def context(self, vlm_features: Tensor, aux_features: Tensor, domain_id: Tensor) -> Context:
        """Project [B, S1, E] and [B, S2, E] features and add positions, once per observation.

        Raises ValueError if action and context tokens exceed `max_seq_len`.
        """
        start = self.config.num_anchors
        length = start + vlm_features.shape[1] + aux_features.shape[1]
        if length > self.config.max_seq_len:
            raise ValueError(
                f"the sequence has {length} tokens, max_seq_len allows {self.config.max_seq_len}; "
                "use fewer views, smaller images or shorter text"
            )
        # With one view there is nothing to project; it still runs, so that gradients are zeros.
        tokens = [
            _apply(self.vlm_proj, vlm_features, domain_id),
            _apply(self.aux_visual_proj, aux_features, domain_id),
        ]
        merged = torch.cat(tokens, dim=1) + self.pos_emb[:, start:length]
        return Context(merged, self._prompts(domain_id))

    def forward(
        self, action: Tensor, proprio: Tensor, time: Tensor, *, context: Context, domain_id: Tensor
    ) -> Tensor:
        """Predict [B, T, A] from noisy action [B, T, A], proprio [B, P] and time [B]."""
        steps = action.shape[1]
        embedded = time_embedding(time, self.config.dim_time).to(proprio.dtype)
        state = torch.cat([proprio, embedded], dim=-1)
        inputs = torch.cat([action, state.unsqueeze(1).expand(-1, steps, -1)], dim=-1)
        tokens = self.action_encoder(inputs, domain_id) + self.pos_emb[:, :steps]
        parts = [tokens, context.tokens]
        if context.prompts is not None:
            parts.append(context.prompts)
        return self.action_decoder(self.norm(self._run(torch.cat(parts, dim=1), steps)), domain_id)

    def _run(self, x: Tensor, num_actions: int) -> Tensor:
        """Run the blocks; the last one only for the action tokens, the only ones read out."""
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            num_queries = num_actions if i == last else None
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, num_queries, use_reentrant=False)
            else:
                x = block(x, num_queries)
        return x[:, :num_actions]

    def _prompts(self, domain_id: Tensor) -> Tensor | None:
        if self.config.soft_prompt_length == 0:
            return None
        rows = self.soft_prompt_hub(domain_id)
        return rows.view(-1, self.config.soft_prompt_length, self.config.hidden_size)


def time_embedding(time: Tensor, dim: int) -> Tensor:
    """Embed time [B] in [0, 1] as [B, dim]: cosines, then sinusoids, periods up to 100 (unscaled).

    Computed in float32: half precision cannot tell times near 1 apart.
    """
    half = dim // 2
    exponents = torch.arange(half, device=time.device, dtype=torch.float32)
    decay = -math.log(TIME_MAX_PERIOD) / max(half, 1)
    angles = time.float().unsqueeze(-1) * torch.exp(exponents * decay)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return functional.pad(embedding, (0, dim - 2 * half)).to(time.dtype)


def _projection(config: ModelConfig) -> nn.Module:
    if config.use_hetero_proj:
        return DomainAwareLinear(config.projection_dim, config.hidden_size, config.num_domains)
    return Linear(config.projection_dim, config.hidden_size)


def _apply(layer: nn.Module, x: Tensor, domain_id: Tensor) -> Tensor:
    return layer(x, domain_id) if isinstance(layer, DomainAwareLinear) else layer(x)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
