"""Several models as one: networks and models of tables, averaged with weights, in one checkpoint.

What `slivit auto`, `data.folds` and `fit.seeds` end in. Selection and weights: Caruana et al. 2004
(doi:10.1145/1015330.1015432). Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slivit.device import in_float32
from slivit.errors import ModelError
from slivit.models._frozen import FrozenNetwork
from slivit.models._table_features import BINS, table_features
from slivit.models.registry import check_output, check_volume, create_model, register_model, spec_of
from slivit.models.unet import COMMON
from slivit.settings import Count, Whole

Activation = Literal["sigmoid", "softmax", "identity"]
_SURE = 1e-6  # the least probability that counts as above 0


class LinearTable(nn.Module):
    """Ridge or logistic regression on standardised features: (B, n) -> (B, out_dim) logits or standardised values.

    Args:
        width: features.
        out_dim: of the task.
        bounded: whether features stay within bounds (`low`, `high`), so that a scan like none before has no wild value.
    """

    center: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, width: int, out_dim: int, *, bounded: bool = False) -> None:
        super().__init__()
        self.bounded = bounded
        shapes = {"center": (width,), "scale": (width,), "weight": (width, out_dim), "bias": (out_dim,)}
        shapes |= {"low": (width,), "high": (width,)} if bounded else {}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @in_float32
    def forward(self, features: Tensor) -> Tensor:
        if self.bounded:
            features = torch.minimum(torch.maximum(features, self.low), self.high)
        return ((features - self.center) * self.scale) @ self.weight + self.bias


class KernelTable(LinearTable):
    """Ridge or logistic regression on how near features are to those of some training scans: (B, n) -> (B, out_dim).

    Nearness is exp(-gamma d2), of the squared distance d2 of standardised features.
    """

    landmarks: Tensor
    gamma: Tensor

    def __init__(self, width: int, landmarks: int, out_dim: int) -> None:
        super().__init__(width, out_dim)
        self.register_buffer("landmarks", torch.zeros(landmarks, width))
        self.register_buffer("gamma", torch.zeros(()))
        self.weight = torch.zeros(landmarks, out_dim)

    @in_float32
    def forward(self, features: Tensor) -> Tensor:
        return self.nearness((features - self.center) * self.scale) @ self.weight + self.bias

    def nearness(self, z: Tensor) -> Tensor:
        """(B, n) standardised features -> (B, landmarks), 1 where they are equal."""
        squares = z.square().sum(1)[:, None] + self.landmarks.square().sum(1) - 2 * z @ self.landmarks.T
        return (-self.gamma * squares.clamp(min=0)).exp()


class ForestTable(nn.Module):
    """A random forest: (B, n) -> (B, out_dim), the mean of its trees' leaves: probabilities or standardised values."""

    feature: Tensor
    threshold: Tensor
    branch: Tensor
    value: Tensor

    def __init__(self, trees: int, nodes: int, depth: int, out_dim: int) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(trees, nodes))
        self.register_buffer("branch", torch.zeros(2, trees, nodes, dtype=torch.int64))
        self.register_buffer("value", torch.zeros(trees, nodes, out_dim))

    def forward(self, features: Tensor) -> Tensor:
        trees, nodes = self.feature.shape  # places of a flat table, as an exported graph keeps an open batch size so
        first = nodes * torch.arange(trees, device=features.device)
        feature, threshold, branch = self.feature.flatten(), self.threshold.flatten(), self.branch.flatten(1)
        node = first + torch.zeros_like(features[:, :1], dtype=torch.int64)
        for _ in range(self.depth):  # a leaf is its own child
            right = features.gather(1, feature[node]) > threshold[node]
            node = first + torch.where(right, branch[1][node], branch[0][node])
        return self.value.flatten(0, 1)[node].mean(1)


class NetworkMember(nn.Module):
    """Networks of one kind, trained on other parts of the scans: (B, C, S, H, W) -> (copies, B, out_dim) outputs."""

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str, args: Mapping[str, Any], copies: int, out_dim: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(create_model(name, out_dim, **args) for _ in range(copies))
        # Each network standardises a regression's targets by its own training rows: these bring them to common units.
        self.register_buffer("scale", torch.ones(copies, out_dim))
        self.register_buffer("shift", torch.zeros(copies, out_dim))

    def forward(self, x: Tensor, covariates: Tensor | None) -> Tensor:
        outputs = []
        for network in self.networks:
            spec = spec_of(network)
            mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1, 1) for v in (spec.mean, spec.std))
            own = (x - mean) / std
            own = own.flatten(2, 3) if spec.input == "tiled" else own
            outputs.append(network(own, covariates) if spec.args.get("covariates") else network(own))
        return torch.stack(outputs).float() * self.scale[:, None] + self.shift[:, None]


class Mean(nn.Module):
    """The weighted mean of members: (B, members, out_dim) -> (B, out_dim)."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((members,), 1 / members))

    def forward(self, parts: Tensor) -> Tensor:
        return (parts * self.weights[:, None]).sum(1)


class Ensemble(nn.Module):
    """A weighted mean of members; `ensemble` says what the arguments mean."""

    temperatures: Tensor

    def __init__(
        self,
        out_dim: int,
        size: tuple[int, int, int],
        members: Sequence[Mapping[str, Any]],
        activation: Activation,
        covariates: int,
        frozen: Sequence[Mapping[str, Any]] = (),
        in_chans: int = 1,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.input_size, self.activation, self.described = size, activation, [dict(m) for m in members]
        self.covariates = covariates
        self.backbone = nn.ModuleList(make_member(m, out_dim) for m in members)
        self.head = Mean(len(members))
        self.frozen = nn.ModuleList(FrozenNetwork(f["name"], f["args"], f.get("planes", 1)) for f in frozen)
        self.frozen_names = [str(f["feature"]) for f in frozen]
        self.names = sorted({name for m in members for name in m.get("features", ())})
        self.register_buffer("temperatures", torch.ones(len(members)))

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """(B, C, S, P, P) from 0 to 1, and (B, k) covariates -> (B, out_dim) logits, or standardised values."""
        check_volume(x, "ensemble", self.in_chans, self.input_size)
        mean = self.head(self.forward_members(x, covariates).transpose(0, 1))
        return mean if self.activation == "identity" else _logits(mean, self.activation)

    def pooled_features(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """(B, C, S, P, P) -> (B, members * out_dim): what the members say, side by side."""
        return self.forward_members(x, covariates).transpose(0, 1).flatten(1)

    def forward_members(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """(members, B, out_dim): what each member says, in probabilities or standardised values."""
        frozen: Any = dict(zip(self.frozen_names, self.frozen, strict=True))
        features = table_features(x, self.names, covariates, frozen)
        members = []
        for member, described, temperature in zip(self.backbone, self.described, self.temperatures, strict=True):
            if isinstance(member, NetworkMember):
                members.append(self._calibrated(self._active(member(x, covariates)).mean(0), temperature))
                continue
            outputs = member(torch.cat([features[name] for name in described["features"]], 1))
            p = outputs if isinstance(member, ForestTable) else self._active(outputs)
            members.append(self._calibrated(p, temperature))
        return torch.stack(members)

    def member(self, place: int) -> Ensemble:
        """One member as an ensemble of its own; the weights are shared, nothing is copied."""
        described, spec = self.described[place], spec_of(self)
        empty = {"kind": "linear", "features": (), "width": 0}
        alone: Any = Ensemble(1, self.input_size, [empty], self.activation, self.covariates, in_chans=self.in_chans)
        alone.described, alone.backbone = [described], nn.ModuleList([self.backbone[place]])
        alone.frozen, alone.frozen_names = self.frozen, self.frozen_names
        alone.names = sorted(described.get("features", ()))
        alone.temperatures = self.temperatures[place : place + 1]
        alone.spec = replace(spec, args={**spec.args, "members": [described]})
        own: Ensemble = alone.to(self.temperatures.device).eval()
        return own

    def _active(self, outputs: Tensor) -> Tensor:
        if self.activation == "identity":
            return outputs
        return outputs.sigmoid() if self.activation == "sigmoid" else outputs.softmax(-1)

    def _calibrated(self, p: Tensor, temperature: Tensor) -> Tensor:
        return p if self.activation == "identity" else self._active(_logits(p, self.activation) / temperature)


def _logits(p: Tensor, activation: Activation) -> Tensor:
    """The logits that an activation makes these probabilities of."""
    p = p.clamp(_SURE, 1 - _SURE)
    return p.log() if activation == "softmax" else p.log() - (-p).log1p()


def make_member(described: Mapping[str, Any], out_dim: int) -> nn.Module:
    """A member as `ensemble` describes it, empty or at random.

    Raises:
        ModelError: a description that is none.
    """
    makers: dict[Any, Callable[..., nn.Module]] = {
        "network": NetworkMember,
        "linear": LinearTable,
        "kernel": KernelTable,
        "forest": ForestTable,
    }
    own = {key: value for key, value in described.items() if key not in ("kind", "features", "title")}
    kind = described.get("kind")
    if kind not in makers:
        raise ModelError(f'ensemble: a member is a "network", "linear", "kernel" or "forest", got {kind!r}')
    try:
        return makers[kind](**own, out_dim=out_dim)
    except TypeError as error:
        raise ModelError(f"ensemble: member {dict(described)}: {error}") from error


@register_model(
    input="volume",
    size=(28, 64, 64),
    mean=(0.0,),
    std=(1.0,),
    source="doi:10.1145/1015330.1015432",
    licence="Apache-2.0 (definition)",
    parameters=1,
    small={
        "slices": 4,
        "image_size": 32,
        "members": [
            {"kind": "linear", "features": ["histogram"], "width": BINS},
            {"kind": "forest", "features": ["voxels2"], "trees": 2, "nodes": 3, "depth": 1},
            {"kind": "kernel", "features": ["voxels2"], "width": 8, "landmarks": 3},
            {
                "kind": "network",
                "name": "resnet3d_18",
                "args": {"slices": 4, "image_size": 32, "width": 4, "depths": [1, 1, 1, 1]},
                "copies": 2,
            },
        ],
    },
)
def ensemble(
    out_dim: int,
    *,
    slices: Count = 28,
    image_size: Count = 64,
    in_chans: Count = 1,
    members: Sequence[Mapping[str, Any]] = ({"kind": "linear", "features": ["histogram"], "width": BINS},),
    activation: Activation = "sigmoid",
    covariates: Whole = 0,
    frozen: Sequence[Mapping[str, Any]] = (),
) -> Ensemble:
    """An ensemble of networks and of models of tables: (B, C, S, P, P) from 0 to 1 -> (B, out_dim) logits.

    `slivit auto` makes it; by itself its tables are empty.

    Args:
        out_dim: the number of outputs.
        slices: S.
        image_size: P, rows and columns in pixels; every member sees the same slices.
        in_chans: C.
        members: one table each. `kind = "network"`: `name` and `args` of a registered model, and `copies` of it that
            are averaged. `"linear"`: `features` and their `width`. `"kernel"`: those and the number of `landmarks`.
            `"forest"`: `features`, `trees`, `nodes`, `depth`.
        activation: of the task: "sigmoid", "softmax", or "identity" for a regression.
        covariates: how many numbers come beside the slices of a scan.
        frozen: networks that are not trained and make features: `feature`, under which members name them, `name` and
            `args` of a registered model with its own size, and `planes`, 3 where it looks from three sides.

    Raises:
        ModelError: a member that is none of these.
    """
    if not members:
        raise ModelError("ensemble: members is empty; an ensemble has one at least")
    return Ensemble(out_dim, (slices, image_size, image_size), members, activation, covariates, frozen, in_chans)


class MaskEnsemble(nn.Module):
    """Networks of one kind that segment, and the weighted mean of their probabilities; see `mask_ensemble`."""

    def __init__(self, networks: Sequence[nn.Module], activation: Activation) -> None:
        super().__init__()
        spec = spec_of(networks[0])
        self.input_size, self.in_chans, self.normalisation = spec.size, spec.channels, (spec.mean, spec.std)
        self.tiled, self.activation = spec.input == "tiled", activation
        self.backbone, self.head = nn.ModuleList(networks), Mean(len(networks))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W), normalised -> (B, K, S, H, W) logits of the mean probabilities."""
        parts = (w * self._probabilities(n, x) for w, n in zip(self.head.weights, self.backbone, strict=True))
        return _logits(torch.as_tensor(sum(parts)), self.activation)

    def _probabilities(self, network: nn.Module, x: Tensor) -> Tensor:
        logits = network(x.flatten(2, 3) if self.tiled else x).float()
        logits = logits.reshape(*logits.shape[:2], *x.shape[2:])
        return logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()


@register_model(
    **COMMON,
    parameters=33_087_236,
    source="arXiv:1904.08128",
    small={"args": {"slices": 16, "image_size": 16, "filters": (4, 8, 8), "strides": (1, 2, 2)}},
)
def mask_ensemble(
    out_dim: int,
    *,
    network: str = "dynunet",
    args: Mapping[str, Any] | None = None,
    copies: Count = 2,
    activation: Literal["sigmoid", "softmax"] = "softmax",
) -> MaskEnsemble:
    """Networks that segment, averaged: (B, C, S, H, W) float32 -> (B, out_dim, S, H, W) logits.

    `data.folds` and `fit.seeds` end in one; by itself its networks are at random.

    Args:
        out_dim: K.
        network: a registered model that gives masks.
        args: its own, where they are not the defaults.
        copies: how many of it.
        activation: of the task: "softmax" where labels exclude each other, "sigmoid" for regions.

    Raises:
        ModelError: a network that gives no masks.
    """
    networks = [create_model(network, out_dim, **(args or {})) for _ in range(copies)]
    check_output(networks[0], "mask")
    return MaskEnsemble(networks, activation)
