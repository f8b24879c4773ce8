"""Batch: the one place where keys, dtypes, shapes and ranges of model input are stated."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of observations and action chunks (B batch, V views, L text, T anchors).

    input_ids  [B, L] int64, padded; padding is attended to, as in the released model.
    images     [B, V, 3, H, W] float, ImageNet-normalised; view 0 is the main view.
    view_mask  [B, V] bool; False marks an absent view, whose pixels are ignored.
    domain_id  [B] int64, row of the domain-specific tables.
    proprio    [B, P] float, the state at the start frame.
    action     [B, T, A] float, the anchor points, or None when acting.
    """

    input_ids: "Tensor"
    images: "Tensor"
    view_mask: "Tensor"
    domain_id: "Tensor"
    proprio: "Tensor"
    action: "Tensor | None"

    def to(self, device: "torch.device | str") -> "Batch":
        """Return the batch on `device`."""
        return replace(
            self,
            **{
                f.name: value.to(device, non_blocking=True)
                for f in fields(self)
                if (value := getattr(self, f.name)) is not None
            },
        )

    def __len__(self) -> int:
        """Return B."""
        return int(self.domain_id.shape[0])
