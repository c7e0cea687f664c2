"""SiT: restoring groups of corrupted patches, and finding the other view of an image among the teacher's views of all.

Paper: Atito et al. 2021, SiT: Self-supervised vIsion Transformer (arXiv:2104.03602), as its released code last was: a
teacher that sees clean views, and no rotation task. Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from slivit.settings import Count, NonNegative, Positive, Share
from slivit.ssl._images import to_model, whole
from slivit.ssl._patches import TOKENS_AND_POSITIONS, depth_of, grey_target, patch_features, square, transformer_of
from slivit.ssl.gmml import Corruption, LightDecoder, Part, Restorer, restored_pictures
from slivit.ssl.losses.contrastive import found_by_teacher
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.simmim import l1_loss, stride_of
from slivit.ssl.teacher import Distillation, FollowStudent
from slivit.ssl.views import Range, blur, jitter, solarise


class SitBranch(nn.Module):
    """A transformer, and a projection of what stands for an image; student and teacher are one each.

    Args:
        encoder: a registered model of images with a ViT or a Swin.
        family: "vit" or "swin".
        dim: width of its tokens.
        hidden: width of the hidden layers of the projection.
        out: width of a projection.

    Source: the released code's head: three layers with batch norms, the last one without a scale.
    """

    def __init__(self, encoder: nn.Module, family: str, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.trunk = Restorer(encoder, family, nn.Identity())
        self.projector = nn.Sequential(
            *(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.GELU()),
            *(nn.Linear(hidden, out), nn.BatchNorm1d(out, affine=False)),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, 1, P, P) -> (B, out) projections and (B, n, D) tokens."""
        token, tokens = self.trunk.tokens(images)
        return self.projector(token), tokens


class SitPair(Distillation):
    """A student over two corrupted views, whose tokens a light decoder reads, and a teacher over the clean ones.

    Args:
        student: what is trained.
        decoder: from the student's tokens (B, n, D) to the image.
    """

    student: SitBranch
    teacher: SitBranch

    def __init__(self, student: SitBranch, decoder: nn.Module) -> None:
        super().__init__(student)
        self.decoder = decoder

    def forward(self, views: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What the loss takes.

        Args:
            views: "corrupted" and "clean", (2 * B, C, 1, P, P), the first views of all images before the second ones.

        Returns:
            (2 * B, 1, P, P) restored, and (2 * B, out) projections of the student and of the teacher.
        """
        own, tokens = self.student(views["corrupted"])
        with torch.no_grad():
            other = self.teacher(views["clean"])[0]
        return self.decoder(tokens), own, other

    def restored(self, images: Tensor) -> Tensor:
        """(B, C, 1, P, P) -> (B, 1, P, P)."""
        return self.decoder(self.student(images)[1])


@register_pretext
def sit(
    model: nn.Module,
    *,
    noise: Part = 0.5,
    replace: Share = 0.3,
    largest: Part = 0.3,
    temperature: Positive = 0.2,
    restoring_weight: NonNegative = 1.0,
    momentum: tuple[Share, Share] = (0.996, 1.0),
    hidden: Count = 4096,
    projection: Count = 256,
    crop: Range = (0.2, 1.0),
    flip: float = 0.5,
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.4,
    blur_probability: tuple[Share, Share] = (1.0, 0.1),
    solarise_probability: Share = 0.2,
) -> Pretext:
    """SiT for `slice_vit` and `slice_swin` with slices = 1; the teacher's backbone is kept.

    Args:
        model: its transformer is pre-trained.
        noise: see `gmml`, as replace and largest.
        replace: see `gmml`.
        largest: see `gmml`.
        temperature: of the contrastive loss.
        restoring_weight: of the absolute error of what was corrupted, beside the contrastive loss.
        momentum: of the teacher, at first and in the end.
        hidden: width of the hidden layers of the projection.
        projection: width of a projection.
        crop: smallest and largest area of a view, as a fraction of the image.
        flip: probability of a left-right mirroring; 0 where sides matter.
        strength: of the changes of brightness and contrast.
        blur_probability: of the first and the second view.
        solarise_probability: of the second view.

    Raises:
        ModelError: a model that is no transformer over single images.

    Source: Atito et al. 2021, method, and the defaults of its released code.
    """
    transformer, info, spec = transformer_of(model, "sit", ("vit", "swin"))
    decoder = LightDecoder(info.channels, stride_of(transformer, info.family))
    pair = SitPair(SitBranch(model, info.family, info.channels, hidden, projection), decoder)
    corrupt = Corruption(spec, info.patch, noise=noise, replace=replace, largest=largest)
    parts = {"restored": float("nan"), "contrastive": float("nan")}

    def view(batch: Tensor, kind: int) -> Tensor:
        cut = blur(jitter(square(batch, spec.size[1], crop, flip), strength), blur_probability[kind])
        return solarise(cut, solarise_probability if kind else 0.0)

    def views(batch: Tensor) -> tuple[Any, Any]:
        images = torch.cat([view(batch, kind) for kind in range(2)])
        corrupted, mask = corrupt(images)
        made = {"corrupted": to_model(corrupted, spec), "clean": to_model(images, spec)}
        return made, (grey_target(images, spec), mask)

    def loss(outputs: tuple[Tensor, Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        restored, own, other = outputs
        losses = torch.stack([l1_loss(restored, *targets), found_by_teacher(own, other, temperature)])
        parts.update(zip(parts, losses.detach().tolist(), strict=True))
        return restoring_weight * losses[0] + losses[1]

    return Pretext(
        name="sit",
        model=pair,
        views=views,
        loss=loss,
        encoder=pair.teacher.trunk.encoder,
        features=lambda batch: patch_features(pair.teacher.trunk.encoder, spec, batch),
        callbacks=[FollowStudent(pair, *momentum)],
        pictures=lambda batch: restored_pictures(pair.restored, corrupt, spec, whole(batch, spec.size[1])),
        parts=parts,
        extra={"decoder": decoder},
        undecayed=TOKENS_AND_POSITIONS,
        depth_of=depth_of(transformer, info.family),
    )
