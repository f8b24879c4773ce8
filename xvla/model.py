"""X-VLA: the encoder, the soft-prompted transformer and the flow-matching objective in one module.

Shapes: B batch, V views, L text tokens, T anchors, A action dim, P proprio dim, E encoder width.

Weights in half precision compute in half precision: what enters is rounded once, here, and what is
read out is float32 again, so noising, losses and the sampler are as exact as what they are given.
There is no autocast: DeepSpeed switches CUDA's off around a module that it holds in bf16.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from xvla import flop_formulas, flow
from xvla.actions import action_space
from xvla.attention import attention_kind
from xvla.batch import Batch
from xvla.batch_check import check_batch, check_draws, check_features, check_precision
from xvla.config import ModelConfig
from xvla.encoder import Features, FlorenceEncoder
from xvla.transformer import Context, SoftPromptedTransformer

flop_formulas.register()
PARAMETER_GROUPS = ("vlm", "transformer_core", "soft_prompts", "action_heads")


class XVLA(nn.Module):
    """The policy. `attention` is an engine choice: it changes speed, never what is computed."""

    def __init__(self, config: ModelConfig, *, attention: str = "auto") -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            kind = type(config).__name__
            raise ValueError(f"config is of type {kind}; give an xvla.config.ModelConfig")
        config.validate()
        kind = attention_kind(attention)
        self.config = config
        self.action_space = action_space(config)
        self.vlm = FlorenceEncoder(config, attention=kind)
        self.transformer = SoftPromptedTransformer(config, attention=kind)

    def forward(
        self,
        batch: Batch,
        time: Tensor | None = None,
        noise: Tensor | None = None,
        features: Features | None = None,
    ) -> dict[str, Tensor]:
        """Return the named losses of one batch; the objective is their sum.

        time [B] and noise [B, T, A] make the result reproducible; features is a result of
        `encode`, for a frozen encoder (the batch's images are then not looked at).
        Raises ValueError for a batch that does not fit the configuration.
        """
        if batch.action is None:
            raise ValueError("batch.action is None; training needs the action chunk [B, T, A]")
        vlm_features, aux_features = self._features(batch, features)
        self._check_draws(batch, time, noise)
        action = batch.action
        time = flow.sample_time(len(batch), device=action.device) if time is None else time
        noise = torch.randn_like(action) if noise is None else noise
        if noise.shape != action.shape:  # `auto`: one of them is as wide as the robot, one as A
            action, noise = self.action_space.pad(action), self.action_space.pad(noise)
        noised = flow.add_noise(action, noise, time, prediction=self.config.prediction)
        context = self.transformer.context(vlm_features, aux_features, batch.domain_id)
        predicted = self._predict(noised, batch, time, context)
        if self.config.prediction == "velocity":
            velocity = self.action_space.pad(action - noise)
            real = self.action_space.real_dim
            return {
                "velocity_loss": functional.mse_loss(predicted[..., :real], velocity[..., :real])
            }
        return self.action_space.losses(predicted, batch.action)

    def encode(self, batch: Batch) -> Features:
        """Return (vlm_features [B, Nv + L, E], aux_features [B, (V - 1) * Nv, E])."""
        check_batch(batch, self.config)
        return self.vlm(batch.input_ids, batch.images, batch.view_mask)

    @torch.no_grad()
    def act(
        self,
        batch: Batch,
        steps: int = 10,
        noise: Tensor | None = None,
        features: Features | None = None,
    ) -> Tensor:
        """Return an action chunk [B, T, real action dim] by `steps` denoising steps.

        Runs in evaluation mode and restores the mode it found. The encoder runs once. noise
        [B, T, A] makes the result reproducible; fewer than 1 steps are 1, as in the released code.
        Raises ValueError for a batch or noise that does not fit the configuration.
        """
        was_training = self.training
        self.eval()
        try:
            return self._act(batch, steps, noise, features)
        finally:
            self.train(was_training)

    def _act(
        self, batch: Batch, steps: int, noise: Tensor | None, features: Features | None
    ) -> Tensor:
        space = self.action_space
        vlm_features, aux_features = self._features(batch, features)
        self._check_draws(batch, None, noise)
        context = self.transformer.context(vlm_features, aux_features, batch.domain_id)
        if noise is None:
            shape = (len(batch), self.config.num_anchors, space.dim)
            noise = torch.randn(shape, device=batch.proprio.device, dtype=batch.proprio.dtype)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            return self._predict(x, batch, time, context)

        prediction = self.config.prediction
        sampled = flow.sample(predict, space.pad(noise), steps=steps, prediction=prediction)
        if prediction == "velocity":
            return sampled[..., : space.real_dim]
        return space.postprocess(sampled)

    def _features(self, batch: Batch, features: Features | None) -> Features:
        if features is None:
            return self.encode(batch)
        check_batch(batch, self.config, with_images=False)
        check_features(features, batch, self.config)
        merged, aux = features
        return merged.to(self.dtype), aux.to(self.dtype)

    def _predict(self, noised: Tensor, batch: Batch, time: Tensor, context: Context) -> Tensor:
        """Return the network's output [B, T, A] in the precision of `noised`."""
        predicted = self.transformer(
            self._visible_action(noised).to(self.dtype),
            self.action_space.hide_grippers(batch.proprio).to(self.dtype),
            time,
            context=context,
            domain_id=batch.domain_id,
        )
        return predicted.to(noised.dtype)

    def _check_draws(self, batch: Batch, time: Tensor | None, noise: Tensor | None) -> None:
        check_draws(time, noise, size=len(batch), config=self.config)
        given = {"proprio": batch.proprio, "action": batch.action, "time": time, "noise": noise}
        check_precision(given, self.dtype)

    def _visible_action(self, noised: Tensor) -> Tensor:
        """Return what the network may see: padded; grippers hidden unless their velocity counts."""
        padded = self.action_space.pad(noised)
        if self.config.prediction == "velocity":
            return padded
        return self.action_space.hide_grippers(padded)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights, in which the network computes."""
        return self.transformer.pos_emb.dtype

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Recompute blocks in the backward pass: less memory, about a third more time."""
        self.vlm.activation_checkpointing = enabled
        self.transformer.activation_checkpointing = enabled

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile the policy's blocks and the text encoder's layers with torch.compile.

        Needs a C++ compiler on a CPU. Parameters and their names stay as they are.
        """
        for block in (*self.transformer.blocks, *self.vlm.text_layers()):
            block.compile(backend=backend)


def parameter_group(name: str) -> str:
    """Return the optimizer group of a parameter by its name, as the released code groups them."""
    if name.startswith("vlm."):
        return "vlm"
    if name.startswith("transformer.soft_prompt_hub"):
        return "soft_prompts"
    if name.startswith(("transformer.action_encoder", "transformer.action_decoder")):
        return "action_heads"
    return "transformer_core"


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the model's parameters under vlm, transformer_core, soft_prompts, action_heads."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in PARAMETER_GROUPS}
    for name, parameter in model.named_parameters():
        groups[parameter_group(name)].append(parameter)
    return groups


def build_on_meta(config: ModelConfig, *, attention: str = "auto") -> XVLA:
    """Build the model without memory for its weights."""
    with torch.device("meta"):
        return XVLA(config, attention=attention)


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Count parameters per group, of the policy and in total by building on the meta device."""
    groups = parameter_groups(build_on_meta(config))
    counts = {name: sum(p.numel() for p in params) for name, params in groups.items()}
    policy = sum(n for name, n in counts.items() if name != "vlm")
    return {"total": policy + counts["vlm"], "policy": policy, **counts}
