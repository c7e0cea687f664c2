"""Student and teacher of 3DINO: a 3D vision transformer with a head for class tokens and one for masked patches.

Paper: Xu et al. 2025 (arXiv:2501.11755), after Oquab et al. 2023 (arXiv:2304.07193). Origin: written for this project.
Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slivit.models._dino3d_vit import VisionTransformer3d
from slivit.ssl.heads import DinoHead
from slivit.ssl.losses.dino import ibot_loss, multi_crop_loss
from slivit.ssl.losses.koleo import koleo_loss
from slivit.ssl.teacher import Centring, Distillation, Targets

LARGE = 2  # global crops a volume

Outputs = dict[str, Tensor]


class Branch(nn.Module):
    """A backbone and its two heads; student and teacher are one each.

    Args:
        backbone: a 3D vision transformer with a mask token.
        dino_head: for class tokens.
        ibot_head: for masked patches.
    """

    def __init__(self, backbone: VisionTransformer3d, dino_head: DinoHead, ibot_head: DinoHead) -> None:
        super().__init__()
        self.backbone, self.dino_head, self.ibot_head = backbone, dino_head, ibot_head


class Dino3dPair(Distillation):
    """Student and teacher over the crops of a batch of volumes.

    Args:
        student: what is trained.
        prototypes: of the head for class tokens, and of that for patches.
        centring: see `Targets`.
    """

    student: Branch
    teacher: Branch

    def __init__(self, student: Branch, prototypes: tuple[int, int], centring: Centring) -> None:
        super().__init__(student)
        self.dino_targets = Targets(prototypes[0], centring)
        self.ibot_targets = Targets(prototypes[1], centring)

    def forward(self, crops: Mapping[str, Tensor]) -> Outputs:
        """What the losses take.

        Args:
            crops: "large" (2 * B, 1, s, s, s), the first crops of all volumes before the second ones; "small" (n * B,
                1, t, t, t); "mask" (2 * B, P) bool.

        Returns:
            The student's logits "large" (2 * B, K), "small" (n * B, K) and "masked" (M, L); the teacher's
            probabilities "targets" (2 * B, K) and "ibot" (M, L); the student's class tokens "tokens" (2 * B, dim); the
            teacher's class tokens "features" (2 * B, dim) and their logits "scores" (2 * B, K); and "mask".
        """
        mask = crops["mask"]
        tokens = self.student.backbone(crops["large"], mask)
        classes = [tokens[:, 0]]
        if len(crops["small"]):
            classes.append(self.student.backbone(crops["small"])[:, 0])
        logits = self.student.dino_head(torch.cat(classes))
        out = {"large": logits[: len(mask)], "small": logits[len(mask) :], "tokens": tokens[:, 0], "mask": mask}
        out["masked"] = self.student.ibot_head(tokens[:, 1:][mask])
        return out | self._taught(crops["large"], mask)

    @torch.no_grad()
    def _taught(self, large: Tensor, mask: Tensor) -> Outputs:
        tokens = self.teacher.backbone(large)
        scores = self.teacher.dino_head(tokens[:, 0])
        patches = self.teacher.ibot_head(tokens[:, 1:][mask])
        return {
            "targets": self.dino_targets(scores),
            "ibot": self.ibot_targets(patches),
            "features": tokens[:, 0],
            "scores": scores,
        }


@dataclass(frozen=True, kw_only=True)
class Dino3dLoss:
    """DINO over class tokens, iBOT over masked patches, and KoLeo.

    Args:
        temperature: of the student.
        ibot: weight of iBOT.
        koleo: weight of KoLeo.
        parts: where the parts of the loss go, in validation.
    """

    temperature: float
    ibot: float
    koleo: float
    parts: dict[str, float]

    def __call__(self, out: Outputs, _: Tensor) -> Tensor:
        """Outputs of `Dino3dPair` -> a scalar.

        Source: Oquab et al. 2023, section 4; Xu et al. 2025, Methods.
        """
        losses = {"dino_loss": multi_crop_loss(out["large"], out["small"], out["targets"], self.temperature)}
        if self.ibot:
            losses["ibot_loss"] = self.ibot * ibot_loss(out["masked"], out["ibot"], out["mask"], self.temperature)
        volumes = len(out["mask"]) // LARGE
        if self.koleo and (volumes > 1 or out["tokens"].requires_grad):  # a last batch of validation may hold one
            views = [koleo_loss(view) for view in out["tokens"].chunk(LARGE)]
            losses["koleo_loss"] = self.koleo * torch.stack(views).sum()
        if not out["tokens"].requires_grad:
            self.parts.update({name: float(loss) for name, loss in losses.items()})
        return torch.stack(list(losses.values())).sum()
