"""Configuration of the policy and of its data; standard library only, so it loads at once."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from xvla.limits import Config, limited
from xvla.mapping import StateMapping

# Lists of the vision tower with one entry a stage, beside `dim_embed`.
STAGE_LISTS = (
    *("depths", "num_heads", "num_groups"),
    *("patch_size", "patch_stride", "patch_padding", "patch_prenorm"),
)
ActionMode = Literal["ee6d", "joint", "agibot_ee6d", "auto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig(Config):
    """DaViT vision tower of Florence-2 (defaults: Florence-2-large)."""

    section: ClassVar[str] = "model.vision"

    dim_embed: list[int] = limited([256, 512, 1024, 2048], least=1)
    depths: list[int] = limited([1, 1, 9, 1], least=0)
    num_heads: list[int] = limited([8, 16, 32, 64], least=1)
    num_groups: list[int] = limited([8, 16, 32, 64], least=1)
    patch_size: list[int] = limited([7, 3, 3, 3], least=1)
    patch_stride: list[int] = limited([4, 2, 2, 2], least=1)
    patch_padding: list[int] = limited([3, 1, 1, 1], least=0)
    patch_prenorm: list[bool] = field(default_factory=lambda: [False, True, True, True])
    window_size: int = limited(12, least=1)
    mlp_ratio: float = limited(4.0, above=0)
    qkv_bias: bool = True
    drop_path_rate: float = limited(0.1, least=0, below=1)
    max_temporal_embeddings: int = limited(100, least=1)
    max_position_embeddings: int = limited(50, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig(Config):
    """BART encoder of Florence-2 (defaults: Florence-2-large as in the released X-VLA)."""

    section: ClassVar[str] = "model.text"

    vocab_size: int = limited(51289, least=1)
    d_model: int = limited(1024, least=1)
    encoder_layers: int = limited(12, least=0)
    encoder_attention_heads: int = limited(16, least=1)
    encoder_ffn_dim: int = limited(4096, least=1)
    max_position_embeddings: int = limited(4096, least=1)
    dropout: float = limited(0.1, least=0, below=1)
    attention_dropout: float = limited(0.1, least=0, below=1)
    activation_dropout: float = limited(0.1, least=0, below=1)
    scale_embedding: bool = False
    init_std: float = 0.02
    pad_token_id: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Config):
    """X-VLA: a Florence-2 encoder and a soft-prompted transformer (defaults: the released 0.9B)."""

    section: ClassVar[str] = "model"

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    projection_dim: int = limited(1024, least=1)
    hidden_size: int = limited(1024, least=1)
    depth: int = limited(24, least=1)
    num_heads: int = limited(16, least=1)
    mlp_ratio: float = limited(4.0, above=0)
    dropout: float = limited(0.1, least=0, below=1)
    attention_dropout: float = limited(0.1, least=0, below=1)
    num_domains: int = limited(30, least=1)
    soft_prompt_length: int = limited(32, least=0)
    dim_time: int = limited(32, least=1)
    max_seq_len: int = limited(512, least=1)
    use_hetero_proj: bool = False
    num_anchors: int = limited(30, least=1)
    action_mode: ActionMode = "ee6d"
    real_action_dim: int = 20
    max_action_dim: int = limited(20, least=1)
    # -1: as wide as the action; 0: no proprio (LeRobot's use_proprio=false)
    dim_proprio: int = limited(-1, least=-1)
    auto_loss_scale: float = limited(100.0, above=0)
    prediction: Literal["clean", "velocity"] = "clean"

    def validate(self) -> "ModelConfig":
        """Return self, or raise ValueError naming the fields that do not go together."""
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} does not divide "
                f"model.hidden_size={self.hidden_size}"
            )
        _check_stages(self.vision)
        _check_text(self)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEntry(Config):
    """One source in the mixture: its sampling weight and the training episodes taken from it."""

    section: ClassVar[str] = "data.mixture"

    name: str
    weight: float = limited(1.0, above=0)
    num_episodes: int = limited(0, least=0)
    num_frames: int | None = None
    sha256: str | None = None
    mapping: StateMapping | None = None  # what the columns mean, instead of its mapping.yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig(Config):
    """Which episodes are held out: each a share of a set that holds out none, or a split's name.

    Empty: the set's own "val" and "test", else a few of every task (`xvla.data.splits`).
    """

    section: ClassVar[str] = "data.split"

    val: str = ""
    test: str = ""

    def shares(self) -> tuple[float, float] | None:
        """Return both as shares above 0, or None where they are names or empty."""
        try:
            val, test = float(self.val), float(self.test)
        except ValueError:
            return None
        return val, test

    def validate(self) -> "SplitConfig":
        """Return self; ValueError for one without the other, or shares that leave no training."""
        shares, names = self.shares(), {self.val, self.test}
        if shares is None:
            possible = names == {""} or (len(names) == 2 and all(map(_is_name, names)))
        else:
            possible = min(shares) > 0 and sum(shares) < 1
        if not possible:
            raise ValueError(
                f"data.split.val={self.val!r} with data.split.test={self.test!r}; allowed: two "
                "shares above 0 that leave some to train on, e.g. 0.1 and 0.1, or the names of two "
                "splits of the set"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Config):
    """What is read, how a sample is made of it, and (last block) how fast: engine fields."""

    section: ClassVar[str] = "data"

    mixture: list[DomainEntry] = field(default_factory=list)
    anchor_domain: str = ""
    # Rows of the domain-specific tables where they are not the released ones (xvla/domains.py).
    domain_ids: dict[str, int] = limited({}, least=0)
    split: SplitConfig = field(default_factory=SplitConfig)
    image_size: int = limited(224, least=1)
    num_views: int = limited(3, least=1)
    text_length: int = limited(50, least=2)  # the two special tokens
    tokenizer: str = "facebook/bart-large"
    prediction_window_s: float = limited(4.0, above=0)
    num_anchors: int = limited(30, least=1)
    rotation: Literal["linear", "slerp"] = "linear"
    start_tail_s: float = limited(1.0, least=0)
    target: Literal["absolute", "delta", "delta_xyz"] = "absolute"
    proprio_norm: Literal["none", "standardise"] = "none"
    augmentation: Literal["none", "color_jitter"] = "color_jitter"
    blind: bool = False
    subset_seed: int = 0
    start_stride: int = limited(1, least=1)
    eval_starts_per_episode: int = limited(21, least=1)
    eval_starts_other: int = limited(5, least=1)
    random_crop: bool = False  # RandomResizedCrop of training images (Table 11: Fractal)
    pixels: Literal["video", "jpeg"] = "video"  # "jpeg": those of a JPEG frame cache
    # Engine fields: they change speed and place, never a sample, and are not in the run id.
    root: str = ""
    roots: dict[str, str] = field(default_factory=dict)  # a domain's own folder, before `root`
    batch_size: int = limited(16, least=1)
    num_workers: int = limited(0, least=0)
    decode_images: bool = True
    frame_cache_gib: float = limited(2.0, least=0)
    cache: str = ""  # folder of `scaling data prepare`; an index and raw frames in it are used
    augment_on: Literal["worker", "device"] = "worker"
    # Of the training episodes; more unreadable ones stop a run.
    max_failed_share: float = limited(0.01, least=0, most=1)


def _is_name(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return bool(text)
    return False


def _check_stages(vision: VisionConfig) -> None:
    stages = len(vision.dim_embed)
    if not stages:
        raise ValueError("model.vision.dim_embed is empty; give the width of each stage")
    for name in STAGE_LISTS:
        given = getattr(vision, name)
        if len(given) != stages:
            raise ValueError(
                f"model.vision.{name}={given} has {len(given)} entries; model.vision.dim_embed has "
                f"{stages} stages: give one entry a stage"
            )
    for name in ("num_heads", "num_groups"):
        for dim, parts in zip(vision.dim_embed, getattr(vision, name), strict=True):
            if dim % parts:
                raise ValueError(
                    f"model.vision.{name}={parts} does not divide the stage's width {dim}"
                )


def _check_text(config: ModelConfig) -> None:
    text = config.text
    if text.d_model != config.projection_dim:
        raise ValueError(
            f"model.text.d_model={text.d_model} must equal "
            f"model.projection_dim={config.projection_dim}: image tokens and text tokens share one "
            "sequence"
        )
    if text.d_model % text.encoder_attention_heads:
        raise ValueError(
            f"model.text.encoder_attention_heads={text.encoder_attention_heads} does not divide "
            f"model.text.d_model={text.d_model}"
        )
    vocabulary, pad = text.vocab_size, text.pad_token_id
    if not 0 <= pad < vocabulary:
        raise ValueError(
            f"model.text.pad_token_id={pad}; allowed: 0 to {vocabulary - 1} "
            "(model.text.vocab_size - 1)"
        )
