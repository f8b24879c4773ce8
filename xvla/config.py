"""Configuration of the policy and of its data; standard library only, so it loads at once."""

from dataclasses import dataclass, field
from typing import Literal

ActionMode = Literal["ee6d", "joint", "agibot_ee6d", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """DaViT vision tower of Florence-2 (defaults: Florence-2-large)."""

    dim_embed: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048])
    depths: list[int] = field(default_factory=lambda: [1, 1, 9, 1])
    num_heads: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    num_groups: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    patch_size: list[int] = field(default_factory=lambda: [7, 3, 3, 3])
    patch_stride: list[int] = field(default_factory=lambda: [4, 2, 2, 2])
    patch_padding: list[int] = field(default_factory=lambda: [3, 1, 1, 1])
    patch_prenorm: list[bool] = field(default_factory=lambda: [False, True, True, True])
    window_size: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_path_rate: float = 0.1
    max_temporal_embeddings: int = 100
    max_position_embeddings: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """BART encoder of Florence-2 (defaults: Florence-2-large as in the released X-VLA)."""

    vocab_size: int = 51289
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    max_position_embeddings: int = 4096
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    scale_embedding: bool = False
    init_std: float = 0.02
    pad_token_id: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """X-VLA: a Florence-2 encoder and a soft-prompted transformer (defaults: the released 0.9B)."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    projection_dim: int = 1024
    hidden_size: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    num_domains: int = 30
    soft_prompt_length: int = 32
    dim_time: int = 32
    max_seq_len: int = 512
    use_hetero_proj: bool = False
    num_anchors: int = 30
    action_mode: ActionMode = "ee6d"
    real_action_dim: int = 20
    max_action_dim: int = 20
    dim_proprio: int = -1  # -1: as wide as the action; 0: no proprio (LeRobot's use_proprio=false)
    auto_loss_scale: float = 100.0
    prediction: Literal["clean", "velocity"] = "clean"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEntry:
    """One source in the mixture: its sampling weight and the training episodes taken from it."""

    name: str
    weight: float = 1.0
    num_episodes: int = 0
    num_frames: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is read, how a sample is made of it, and (last block) how fast: engine fields."""

    mixture: list[DomainEntry] = field(default_factory=list)
    anchor_domain: str = ""
    image_size: int = 224
    num_views: int = 3
    text_length: int = 50
    tokenizer: str = "facebook/bart-large"
    prediction_window_s: float = 4.0
    num_anchors: int = 30
    rotation: Literal["linear", "slerp"] = "linear"
    start_tail_s: float = 1.0
    target: Literal["absolute", "delta", "delta_xyz"] = "absolute"
    proprio_norm: Literal["none", "standardise"] = "none"
    augmentation: Literal["none", "color_jitter"] = "color_jitter"
    blind: bool = False
    subset_seed: int = 0
    start_stride: int = 1
    eval_starts_per_episode: int = 21
    eval_starts_other: int = 5
    random_crop: bool = False  # RandomResizedCrop of training images (Table 11: Fractal)
    pixels: Literal["video", "jpeg"] = "video"  # "jpeg": those of a JPEG frame cache
    # Engine fields: they change speed and place, never a sample, and are not in the run id.
    root: str = ""
    batch_size: int = 16
    num_workers: int = 0
    decode_images: bool = True
    frame_cache_gib: float = 2.0
    cache: str = ""  # folder of `scaling data prepare`; an index and raw frames in it are used
    augment_on: Literal["worker", "device"] = "worker"
    max_failed_share: float = 0.01  # of the training episodes; more unreadable ones stop a run
