"""The Florence-2 encoder, assembled from transformers' own vision tower, projector and BART.

Shapes: B batch, V views, L text tokens, N images, Nv tokens of one view, E encoder width.
Microsoft's decoder and language head are never built: X-VLA does not use them.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.bart.configuration_bart import BartConfig
from transformers.models.bart.modeling_bart import BartEncoder
from transformers.models.florence2.configuration_florence2 import (
    Florence2Config,
    Florence2VisionConfig,
)
from transformers.models.florence2.modeling_florence2 import (
    Florence2MultiModalProjector,
    Florence2VisionBackbone,
)

from xvla.activations import EARLY_STAGES
from xvla.attention import AttentionKind, transformers_name
from xvla.config import ModelConfig
from xvla.linear import use_fast_linear
from xvla.vision import embed_patches, run_block

Features = tuple[Tensor, Tensor]


class FlorenceEncoder(nn.Module):
    """Encode images and an instruction; the main view meets the text, other views stay visual."""

    def __init__(self, config: ModelConfig, *, attention: AttentionKind = "auto") -> None:
        super().__init__()
        config.validate()
        vision, text = vision_config(config), text_config(config)
        florence = Florence2Config(vision_config=vision, text_config=text)
        self.config = config
        self.attention: AttentionKind = attention
        self.activation_checkpointing = False
        self.vision_tower = Florence2VisionBackbone(vision)
        self.multi_modal_projector = Florence2MultiModalProjector(florence)
        self.language_model = nn.ModuleDict({"encoder": BartEncoder(text)})
        # Once built: transformers looks the name up and falls back when it does not know it.
        self._bart().config._attn_implementation = transformers_name(attention)
        self._init_projector()
        # DeepSpeed casts parameters and leaves buffers: this one would make all features fp32.
        self.multi_modal_projector.visual_temporal_embed.register_forward_hook(_as_input)
        use_fast_linear(self)

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the tokens [N, Nv, E] of images [N, 3, H, W]: one pooled token, then the map."""
        dtype = self.multi_modal_projector.image_projection.weight.dtype
        x = images.to(dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1)
        for stage, blocks in enumerate(self.vision_tower.blocks):
            x = embed_patches(self.vision_tower.convs[stage], x)
            again = stage < EARLY_STAGES and x.device.type == "cpu"
            for block in cast(nn.ModuleList, blocks):
                x = self._run(partial(run_block, block, kind=self.attention), x, again=again)
        return self.multi_modal_projector(x.permute(0, 3, 1, 2))

    def encode_views(self, images: Tensor, view_mask: Tensor) -> Tensor:
        """Return [B, V, Nv, E]; absent views give exactly zero and cost nothing.

        Raises ValueError if no view of the whole batch is present.
        """
        batch, views = view_mask.shape
        present = view_mask.flatten()
        if bool(present.all()):
            return self.encode_images(images.flatten(0, 1)).unflatten(0, (batch, views))
        if not bool(present.any()):
            raise ValueError(
                f"view_mask is False for all {views} views of all {batch} samples; "
                "at least one view of the batch must be present"
            )
        tokens = self.encode_images(images.flatten(0, 1)[present])
        scattered = tokens.new_zeros(batch * views, *tokens.shape[1:])
        scattered[present] = tokens
        return scattered.unflatten(0, (batch, views))

    def encode_text(self, view_tokens: Tensor, input_ids: Tensor) -> Tensor:
        """Run BART over [main view | text]: [B, Nv, E] and [B, L] give [B, Nv + L, E].

        Padding of the text is attended to, as in the released model.
        """
        encoder = self._bart()
        x = torch.cat([view_tokens, encoder.embed_tokens(input_ids)], dim=1)
        x = encoder.layernorm_embedding(x + encoder.embed_positions(x[..., 0]))
        x = nn.functional.dropout(x, self.config.text.dropout, self.training)
        for layer in encoder.layers:
            x = self._run(layer, x, None)
        return x

    def forward(self, input_ids: Tensor, images: Tensor, view_mask: Tensor) -> Features:
        """Encode [B, L], [B, V, 3, H, W], [B, V] to ([B, Nv + L, E], [B, (V - 1) * Nv, E])."""
        tokens = self.encode_views(images, view_mask)
        return self.encode_text(tokens[:, 0], input_ids), tokens[:, 1:].flatten(1, 2)

    def text_layers(self) -> nn.ModuleList:
        """Return BART's layers."""
        return self._bart().layers

    def _bart(self) -> BartEncoder:
        return cast(BartEncoder, self.language_model["encoder"])

    def _run(
        self, layer: Callable[..., Tensor], *args: Tensor | None, again: bool = False
    ) -> Tensor:
        """Run a layer, and once more in the backward pass where its activations are not kept."""
        if (again or self.activation_checkpointing) and self.training:
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)

    def _init_projector(self) -> None:
        """Initialise the parts that transformers initialises only in its full model."""
        projector = self.multi_modal_projector
        width = projector.image_projection.in_features
        nn.init.normal_(projector.image_projection.weight, std=width**-0.5)
        for table in projector.image_position_embed.parameters():
            nn.init.normal_(table, std=0.02)


def _as_input(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.to(inputs[0].dtype)


def florence_config(config: ModelConfig) -> Florence2Config:
    """Translate to the configuration of transformers' full Florence-2."""
    return Florence2Config(vision_config=vision_config(config), text_config=text_config(config))


def vision_config(config: ModelConfig) -> Florence2VisionConfig:
    """Translate the vision tower's part; `xvla.vision` runs it."""
    vision = config.vision
    translated = Florence2VisionConfig(
        embed_dim=list(vision.dim_embed),
        depths=list(vision.depths),
        num_heads=list(vision.num_heads),
        num_groups=list(vision.num_groups),
        patch_size=list(vision.patch_size),
        patch_stride=list(vision.patch_stride),
        patch_padding=list(vision.patch_padding),
        patch_prenorm=list(vision.patch_prenorm),
        window_size=vision.window_size,
        mlp_ratio=float(vision.mlp_ratio),
        qkv_bias=vision.qkv_bias,
        drop_path_rate=vision.drop_path_rate,
        projection_dim=config.projection_dim,
        max_temporal_embeddings=vision.max_temporal_embeddings,
        max_position_embeddings=vision.max_position_embeddings,
    )
    translated._attn_implementation = "sdpa"
    return translated


def text_config(config: ModelConfig) -> BartConfig:
    """Translate the text encoder's part; a decoder, where one is built, is kept small."""
    text = config.text
    translated = BartConfig(
        vocab_size=text.vocab_size,
        d_model=text.d_model,
        encoder_layers=text.encoder_layers,
        encoder_attention_heads=text.encoder_attention_heads,
        encoder_ffn_dim=text.encoder_ffn_dim,
        decoder_layers=1,
        decoder_attention_heads=text.encoder_attention_heads,
        decoder_ffn_dim=text.encoder_ffn_dim,
        max_position_embeddings=text.max_position_embeddings,
        dropout=text.dropout,
        attention_dropout=text.attention_dropout,
        activation_dropout=text.activation_dropout,
        activation_function="gelu",
        scale_embedding=text.scale_embedding,
        init_std=text.init_std,
        pad_token_id=text.pad_token_id,
    )
    translated._attn_implementation = "sdpa"
    return translated
