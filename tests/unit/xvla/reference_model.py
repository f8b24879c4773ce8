"""X-VLA a second time: slow, functional, one sample after another, from official tensor names.

Written from the description of the released model, sharing no code with the package: the policy is
spelled out over the state dict; the encoder is transformers' whole Florence-2 with eager attention.
Shapes: T anchors, A action dim, P proprio dim, S tokens, D width, E encoder width.
"""

import math

import torch
from torch import Tensor
from transformers import Florence2Config, Florence2Model

from xvla.batch import Batch
from xvla.config import ModelConfig

Weights = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]
DIMS = {"ee6d": 20, "agibot_ee6d": 20, "joint": 14}
HIDDEN_GRIPPERS = {"ee6d": (9, 19), "joint": (6, 13)}


def florence(config: ModelConfig, weights: Weights) -> Florence2Model:
    """Build transformers' Florence-2, decoder and all, and fill what X-VLA uses of it."""
    vision, text = config.vision, config.text
    names = "depths num_heads num_groups patch_size patch_stride patch_padding patch_prenorm"
    names += " window_size mlp_ratio qkv_bias drop_path_rate max_temporal_embeddings"
    names += " max_position_embeddings"
    vision_json = {name: getattr(vision, name) for name in names.split()}
    vision_json |= {"embed_dim": vision.dim_embed, "projection_dim": config.projection_dim}
    names = "vocab_size d_model encoder_layers encoder_attention_heads encoder_ffn_dim"
    names += " max_position_embeddings dropout attention_dropout activation_dropout pad_token_id"
    names += " scale_embedding"
    text_json = {name: getattr(text, name) for name in names.split()} | {"model_type": "bart"}
    text_json |= {"decoder_layers": 1, "decoder_attention_heads": text.encoder_attention_heads}
    model = Florence2Model._from_config(
        Florence2Config(vision_config=vision_json, text_config=text_json),
        attn_implementation="eager",
    )
    kept = {n.removeprefix("vlm."): t for n, t in weights.items() if n.startswith("vlm.")}
    missing, surplus = model.load_state_dict(kept, strict=False)
    assert not surplus
    unused = ("language_model.decoder", "language_model.shared")
    buffer = "multi_modal_projector.visual_temporal_embed.pos_idx_to_embed"
    assert all(n == buffer or n.startswith(unused) for n in missing)
    return model


def encode(model: Florence2Model, ids: Tensor, images: Tensor, mask: Tensor) -> list[Pair]:
    """Return per sample the tokens [S, E] of [main view | text] and [S, E] of the other views."""
    batch, views = mask.shape
    tokens: list[list[Tensor | None]] = [[None] * views for _ in range(batch)]
    for b in range(batch):
        for v in range(views):
            if mask[b, v]:
                tokens[b][v] = model.get_image_features(images[b, v : v + 1]).pooler_output[0]
    shape = next(t.shape for row in tokens for t in row if t is not None)
    words = model.language_model.encoder.embed_tokens
    pairs = []
    for b in range(batch):
        row = [torch.zeros(shape) if t is None else t for t in tokens[b]]
        merged = torch.cat([row[0], words(ids[b])])[None]
        text = model.language_model.encoder(inputs_embeds=merged).last_hidden_state[0]
        pairs.append((text, torch.cat([torch.zeros(0, shape[1]), *row[1:]])))
    return pairs


class ReferencePolicy:
    """The soft-prompted transformer over `transformer.*` tensors, for one sample at a time."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config, self.weights = config, weights

    def __call__(
        self, action: Tensor, proprio: Tensor, time: Tensor, *, seen: Pair, domain: int
    ) -> Tensor:
        """Predict [T, A] from a noisy action [T, A], a state [P] and a time (scalar)."""
        config, rows = self.config, []
        clock = self._clock(time)
        for token in action:  # order within a token: action, state, time
            rows.append(
                self._by_domain("action_encoder", torch.cat([token, proprio, clock]), domain)
            )
        text = self._project("vlm_proj", seen[0], domain)
        aux = self._project("aux_visual_proj", seen[1], domain)
        x = torch.cat([torch.stack(rows), text, aux])
        x = x + self.weights["transformer.pos_emb"][0, : len(x)]
        if config.soft_prompt_length:
            prompts = self.weights["transformer.soft_prompt_hub.weight"][domain]
            x = torch.cat([x, prompts.reshape(config.soft_prompt_length, config.hidden_size)])
        for i in range(config.depth):
            x = self._block(x, f"transformer.blocks.{i}.")
        final = self._norm(x[: len(action)], "transformer.norm")
        return self._by_domain("action_decoder", final, domain)

    def _clock(self, time: Tensor) -> Tensor:
        half = self.config.dim_time // 2
        angles = [time * math.exp(-math.log(100) * k / half) for k in range(half)]
        clock = [torch.cos(a) for a in angles] + [torch.sin(a) for a in angles]
        return torch.stack(clock + [torch.zeros(())] * (self.config.dim_time % 2))

    def _by_domain(self, name: str, x: Tensor, domain: int) -> Tensor:
        bias = self.weights[f"transformer.{name}.bias.weight"][domain]
        matrix = self.weights[f"transformer.{name}.fc.weight"][domain]
        return x @ matrix.reshape(x.shape[-1], len(bias)) + bias

    def _project(self, name: str, x: Tensor, domain: int) -> Tensor:
        if self.config.use_hetero_proj:
            return self._by_domain(name, x, domain)
        return self._linear(x, f"transformer.{name}")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        scaled = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)
        return scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def _block(self, x: Tensor, name: str) -> Tensor:
        x = x + self._attention(self._norm(x, name + "norm1"), name + "attn.")
        return x + self._mlp(self._norm(x, name + "norm2"), name + "mlp.")

    def _attention(self, x: Tensor, name: str) -> Tensor:
        width = x.shape[1] // self.config.num_heads
        parts = self._linear(x, name + "qkv").reshape(len(x), 3, self.config.num_heads, width)
        heads = []
        for h in range(self.config.num_heads):
            query, key, value = (parts[:, i, h] for i in range(3))
            heads.append(torch.softmax(query @ key.T / math.sqrt(width), dim=-1) @ value)
        return self._linear(torch.cat(heads, dim=-1), name + "proj")

    def _mlp(self, x: Tensor, name: str) -> Tensor:
        x = self._linear(x, name + "fc1")
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self._linear(x, name + "fc2")


def width(config: ModelConfig) -> int:
    """Return A."""
    return DIMS.get(config.action_mode, config.max_action_dim)


def hidden(config: ModelConfig, x: Tensor) -> Tensor:
    """Zero what the network may not see."""
    x = x.clone()
    for i in HIDDEN_GRIPPERS.get(config.action_mode, ()):
        if i < x.shape[-1]:
            x[..., i] = 0
    return x


def padded(config: ModelConfig, x: Tensor) -> Tensor:
    """Append zeros up to A."""
    return torch.cat([x, torch.zeros(*x.shape[:-1], width(config) - x.shape[-1])], dim=-1)


def losses(config: ModelConfig, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return the named losses of [B, T, A] predictions; means over batch, time and dimensions."""

    def mse(*dims: int) -> Tensor:
        errors = [((predicted[..., d] - target[..., d]) ** 2).mean() for d in dims]
        return torch.stack(errors).mean()

    def bce(*dims: int) -> Tensor:
        total = torch.zeros(())
        for d in dims:
            chance = torch.sigmoid(predicted[..., d])
            wanted = target[..., d]
            total = total - (wanted * chance.log() + (1 - wanted) * (1 - chance).log()).mean()
        return total / len(dims)

    mode = config.action_mode
    if mode == "joint":
        arms = [d for d in range(14) if d not in (6, 13)]
        return {"joints_loss": mse(*arms), "gripper_loss": 0.1 * bce(6, 13)}
    if mode == "auto":
        return {"joints_loss": config.auto_loss_scale * mse(*range(config.real_action_dim))}
    return {
        "position_loss": 500 * (mse(0, 1, 2) + mse(10, 11, 12)),
        "rotate6D_loss": 10 * (mse(*range(3, 9)) + mse(*range(13, 19))),
        "gripper_loss": bce(9, 19) if mode == "ee6d" else 10 * mse(9, 19),
    }


def train(
    policy: ReferencePolicy, seen: list[Pair], batch: Batch, time: Tensor, noise: Tensor
) -> Weights:
    """Return the losses of a batch at `time` [B] with `noise`."""
    config, rows = policy.config, []
    assert batch.action is not None
    for b, pair in enumerate(seen):
        mixed = padded(config, time[b] * noise[b] + (1 - time[b]) * batch.action[b])
        state = hidden(config, batch.proprio[b])
        domain = int(batch.domain_id[b])
        rows.append(policy(hidden(config, mixed), state, time[b], seen=pair, domain=domain))
    return losses(config, torch.stack(rows), batch.action)


def act(
    policy: ReferencePolicy, seen: list[Pair], batch: Batch, steps: int, noise: Tensor
) -> Tensor:
    """Sample [B, T, real dim]: the same noise is mixed anew with each prediction."""
    config, rows = policy.config, []
    for b, pair in enumerate(seen):
        state, domain = hidden(config, batch.proprio[b]), int(batch.domain_id[b])
        action = torch.zeros_like(noise[b])
        for i in range(steps, 0, -1):
            mixed = hidden(config, i / steps * noise[b] + (1 - i / steps) * action)
            time = torch.tensor(i / steps)
            action = policy(mixed, state, time, seen=pair, domain=domain)
        action = action.clone()
        for d in HIDDEN_GRIPPERS.get(config.action_mode, ()):
            action[:, d] = torch.sigmoid(action[:, d])
        real = config.real_action_dim if config.action_mode == "auto" else width(config)
        rows.append(action[:, :real])
    return torch.stack(rows)
