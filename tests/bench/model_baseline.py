"""The benchmark's baseline: transformers' Florence-2 with eager attention and a plain policy.

Written from the published description alone, with none of our shortcuts: windows are padded before
the projections, every block computes every token, attention is two matrix products. Its parameters
carry our names, so both models can be given the same weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Florence2Config
from transformers.models.bart.modeling_bart import BartEncoder
from transformers.models.florence2.modeling_florence2 import (
    Florence2MultiModalProjector,
    Florence2VisionBackbone,
)

from xvla.config import ModelConfig
from xvla.encoder import text_config, vision_config
from xvla.transformer import time_embedding


class PlainEncoder(nn.Module):
    """Florence-2's parts called as transformers calls them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision, text = vision_config(config), text_config(config)
        vision._attn_implementation = text._attn_implementation = "eager"
        self.vision_tower = Florence2VisionBackbone(vision)
        self.multi_modal_projector = Florence2MultiModalProjector(
            Florence2Config(vision_config=vision, text_config=text)
        )
        self.language_model = nn.ModuleDict({"encoder": BartEncoder(text)})

    def forward(self, input_ids: Tensor, images: Tensor, view_mask: Tensor) -> tuple[Tensor, ...]:
        """Encode present views, put them in a zero tensor, merge the main view with the text."""
        size, views = view_mask.shape
        present = view_mask.flatten()
        maps = self.vision_tower(images.flatten(0, 1)[present]).last_hidden_state
        tokens = self.multi_modal_projector(maps)
        scattered = tokens.new_zeros(size * views, *tokens.shape[1:])
        scattered[present] = tokens
        scattered = scattered.unflatten(0, (size, views))
        encoder = self.language_model["encoder"]
        merged = torch.cat([scattered[:, 0], encoder.embed_tokens(input_ids)], dim=1)
        return encoder(inputs_embeds=merged).last_hidden_state, scattered[:, 1:].flatten(1, 2)


class PlainBlock(nn.Module):
    """Pre-norm block with attention by hand."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, hidden = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.heads, self.config = config.num_heads, config
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """Attend and transform all tokens of x [B, S, D]."""
        size, length, dim = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(size, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        weights = functional.dropout(weights, self.config.attention_dropout, self.training)
        merged = (weights @ value).transpose(1, 2).reshape(size, length, dim)
        x = x + self.attn["proj"](merged)
        hidden = functional.gelu(self.mlp["fc1"](self.norm2(x)), approximate="tanh")
        hidden = functional.dropout(hidden, self.config.dropout, self.training)
        out = functional.dropout(self.mlp["fc2"](hidden), self.config.dropout, self.training)
        return x + out


class PlainDomainLinear(nn.Module):
    """One matrix per domain, looked up."""

    def __init__(self, dim_in: int, dim_out: int, domains: int) -> None:
        super().__init__()
        self.dim_in = dim_in
        self.fc, self.bias = nn.Embedding(domains, dim_in * dim_out), nn.Embedding(domains, dim_out)

    def forward(self, x: Tensor, domain_id: Tensor) -> Tensor:
        """Map x [B, T, in] to [B, T, out]."""
        weight = self.fc(domain_id).view(len(x), self.dim_in, -1)
        return x @ weight + self.bias(domain_id).unsqueeze(1)


class PlainTransformer(nn.Module):
    """The soft-prompted transformer, projecting its context at every call."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, domains = config.hidden_size, config.num_domains
        self.config = config
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.vlm_proj = nn.Linear(config.projection_dim, dim)
        self.aux_visual_proj = nn.Linear(config.projection_dim, dim)
        self.pos_emb = nn.Parameter(torch.empty(1, config.max_seq_len, dim))
        self.norm = nn.LayerNorm(dim)
        self.action_encoder = PlainDomainLinear(20 + 20 + config.dim_time, dim, domains)
        self.action_decoder = PlainDomainLinear(dim, 20, domains)
        self.soft_prompt_hub = nn.Embedding(domains, config.soft_prompt_length * dim)

    def forward(
        self, action: Tensor, proprio: Tensor, time: Tensor, features: tuple, domain_id: Tensor
    ) -> Tensor:
        """Predict [B, T, 20]."""
        count = action.shape[1]
        state = torch.cat([proprio, time_embedding(time, self.config.dim_time)], dim=-1)
        state = state.unsqueeze(1).expand(-1, count, -1)
        x = self.action_encoder(torch.cat([action, state], dim=-1), domain_id)
        x = torch.cat([x, self.vlm_proj(features[0]), self.aux_visual_proj(features[1])], dim=1)
        x = x + self.pos_emb[:, : x.shape[1]]
        prompts = self.soft_prompt_hub(domain_id).view(len(x), -1, x.shape[-1])
        x = torch.cat([x, prompts], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.action_decoder(self.norm(x[:, :count]), domain_id)


class PlainXVLA(nn.Module):
    """X-VLA with end-effector actions (ee6d), as a plain reading of the paper's released code."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vlm = PlainEncoder(config)
        self.transformer = PlainTransformer(config)

    def forward(self, batch, time: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return the three losses of a batch at given times and noise."""
        features = self.vlm(batch.input_ids, batch.images, batch.view_mask)
        mix = time.view(-1, 1, 1)
        noised = hide(mix * noise + (1 - mix) * batch.action)
        predicted = self.transformer(noised, hide(batch.proprio), time, features, batch.domain_id)
        return losses(predicted, batch.action)

    @torch.no_grad()
    def act(self, batch, steps: int, noise: Tensor) -> Tensor:
        """Denoise in `steps` steps; returns [B, T, 20]."""
        features = self.vlm(batch.input_ids, batch.images, batch.view_mask)
        action, proprio = torch.zeros_like(noise), hide(batch.proprio)
        for i in range(steps, 0, -1):
            time = noise.new_full((len(noise),), i / steps)
            mixed = hide(i / steps * noise + (1 - i / steps) * action)
            action = self.transformer(mixed, proprio, time, features, batch.domain_id)
        for dim in (9, 19):
            action[..., dim] = action[..., dim].sigmoid()
        return action


def hide(values: Tensor) -> Tensor:
    """Return a copy with both grippers at zero."""
    values = values.clone()
    values[..., [9, 19]] = 0
    return values


def losses(predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return position, rotation and gripper loss with the released weights."""
    mse = functional.mse_loss
    bce = functional.binary_cross_entropy_with_logits
    return {
        "position_loss": 500 * sum(mse(predicted[..., a : a + 3], target[..., a : a + 3])
                                   for a in (0, 10)),
        "rotate6D_loss": 10 * sum(mse(predicted[..., a : a + 6], target[..., a : a + 6])
                                  for a in (3, 13)),
        "gripper_loss": bce(predicted[..., [9, 19]], target[..., [9, 19]]),
    }  # fmt: skip
