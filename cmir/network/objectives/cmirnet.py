"""The published CMIR-NET objective: every term, each with its weight, each of which may be left out.

For modalities a and b with features Z, retrieval vectors V, encoder weights w (Chaudhuri et al., arXiv 1904.04794):

    L1 = CE + ||Z^T Z - I||_F^2                                each modality, stage 1       classes, orthogonality
    L2 = ||V_a - V_b||_F^2                                     pairs meet in the space      latent
    L3 = CE(V_a) + CE(V_b)                                     sigmoid CE for multi-hot     classifier
    L4 = ||V_a||_F^2 + ||V_b||_F^2                             feature norm                 norm
    L5 = ||dec_a(V_a) - Z_b||_F^2 + ||dec_b(V_b) - Z_a||_F^2   cross-modal decoding         decoder
    R  = ||w_a - alpha||_F^2 + ||w_b - alpha||_F^2             against the all-zero V       regulariser

Readings of our own. What is summed over a batch is divided by its rows (in L1 Z^T Z, which is also divided by F: as
published it is thousands of times the cross-entropy at the start and kills every ReLU of Z), and R by the number of
weights, so that a weight means the same at any size. The published weights are not known; ours were chosen on a val
split (docs/decisions.md). `w` is taken to be the encoders' matrices, which the source does not say.
"""

from typing import Final, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cmir.archive.schema import MODALITIES
from cmir.network.catalogue import UNKNOWN
from cmir.network.cmirnet_model import CmirNet
from cmir.network.objectives.contrastive import Targets, gather_rows, gather_targets

Term = Literal["classes", "orthogonality", "latent", "classifier", "norm", "decoder", "regulariser"]
STAGE_1: Final[tuple[Term, ...]] = ("classes", "orthogonality")
STAGE_2: Final[tuple[Term, ...]] = ("latent", "classifier", "norm", "decoder", "regulariser")
TERMS: Final[tuple[Term, ...]] = (*STAGE_1, *STAGE_2)


class CmirNetWeights(BaseModel):
    """How much each term counts; zero leaves it out. `alpha` is what the encoders' weights are drawn to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: float = Field(default=1.0, ge=0)
    orthogonality: float = Field(default=1e-4, ge=0)
    latent: float = Field(default=0.3, ge=0)
    classifier: float = Field(default=1.0, ge=0)
    norm: float = Field(default=1e-3, ge=0)
    decoder: float = Field(default=0.1, ge=0)
    regulariser: float = Field(default=1e-3, ge=0)
    alpha: float = Field(default=1.0, description="alpha; 1 is the published best, 0 lets V collapse")

    def without(self, term: Term) -> "CmirNetWeights":
        """The same with one term left out, for ablations."""
        return self.model_copy(update={term: 0.0})


class CmirNetSettings(BaseModel):
    """How the published network is trained; the learning rate is the published one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: CmirNetWeights = Field(default_factory=CmirNetWeights)
    stage1_share: float = Field(default=0.75, ge=0, le=1, description="part of the training that stage 1 takes")
    learning_rate: float = Field(default=1e-3, gt=0)


class CmirNetObjective(nn.Module):
    """The weighted sum of the terms of the stage that training is in.

    With `stage1_share` of the training the classifiers learn Z (L1), then Z stands still and the rest learns (L2..R).
    Multi-label networks learn everything together, as published for UC Merced; L1 is then not used.
    """

    def __init__(self, weights: CmirNetWeights, *, stage1_share: float = 0.5) -> None:
        super().__init__()
        assert 0 <= stage1_share <= 1
        self.weights = weights
        self.stage1_share = stage1_share

    def stage(self, net: CmirNet, fraction: float) -> Literal[1, 2]:
        """Which stage training is in when `fraction` 0..1 of it has passed."""
        return 1 if not net.settings.multi_label and fraction < self.stage1_share else 2

    def begin_step(self, net: CmirNet, fraction: float) -> None:
        """Put the network in the mode of its stage; call it before the features of a batch are computed."""
        net.train()
        frozen = not net.settings.multi_label and self.stage(net, fraction) == 2
        net.features.train(not frozen)  # no dropout, no new batch statistics
        net.features.requires_grad_(not frozen)

    def forward(self, net: CmirNet, z: Tensor, targets: Targets, *, fraction: float) -> dict[str, Tensor]:
        """The terms with a weight, already weighted, each a scalar; their sum is the loss.

        Args:
            z: f32[N,F], features of the items of both modalities, as `image_features` and `speech_features` give them.
            targets: of the same items.
            fraction: how much of the training has passed, 0..1.
        """
        z, targets = gather_rows(z), gather_targets(targets)
        stage_terms = self._stage1 if self.stage(net, fraction) == 1 else self._stage2
        terms = stage_terms(net, z, targets)
        return {name: getattr(self.weights, name) * value for name, value in terms.items()}

    def _wanted(self, *names: Term) -> list[Term]:
        return [name for name in names if getattr(self.weights, name) > 0]

    def _stage1(self, net: CmirNet, z: Tensor, targets: Targets) -> dict[str, Tensor]:
        wanted = self._wanted(*STAGE_1)
        terms: dict[str, Tensor] = {name: z.sum() * 0.0 for name in wanted}
        for modality, rows in _rows_by_modality(net, targets).items():
            if "classes" in wanted:
                logits = net.stage1_classifiers[modality](z[rows])
                terms["classes"] = terms["classes"] + class_entropy(logits, targets, rows, net.settings.multi_label)
            if "orthogonality" in wanted:
                terms["orthogonality"] = terms["orthogonality"] + orthogonality(z[rows])
        return terms

    def _stage2(self, net: CmirNet, z: Tensor, targets: Targets) -> dict[str, Tensor]:
        wanted = self._wanted(*STAGE_2)
        rows = _rows_by_modality(net, targets)
        a, b = net.config.modalities
        v = {name: net.latent(name, z[rows[name]]) for name in (a, b)}
        terms: dict[str, Tensor] = {}
        if "classifier" in wanted:
            entropies = [
                class_entropy(net.classifiers[name](v[name]), targets, rows[name], net.settings.multi_label)
                for name in (a, b)
            ]
            terms["classifier"] = entropies[0] + entropies[1]
        if "norm" in wanted:
            terms["norm"] = mean_square(v[a]) + mean_square(v[b])
        if "latent" in wanted or "decoder" in wanted:
            left, right = pairs_of(targets, rows[a], rows[b])
            z_a, z_b, v_a, v_b = z[rows[a]][left], z[rows[b]][right], v[a][left], v[b][right]
            if "latent" in wanted:
                terms["latent"] = mean_square(v_a - v_b)
            if "decoder" in wanted:
                guesses = net.decoded(a, v_a), net.decoded(b, v_b)
                terms["decoder"] = mean_square(guesses[0] - z_b) + mean_square(guesses[1] - z_a)
        if "regulariser" in wanted:
            terms["regulariser"] = alpha_distance(net, self.weights.alpha)
        return terms


def orthogonality(z: Tensor) -> Tensor:
    """||Z^T Z / B - I||_F^2 / F of f32[B,F]: features are drawn to a mean square of 1 and to right angles."""
    if not len(z):
        return z.sum()
    return (z.T @ z / len(z) - torch.eye(z.shape[1], device=z.device)).square().sum() / z.shape[1]


def mean_square(rows: Tensor) -> Tensor:
    """||X||_F^2 / B of f32[B,D]; 0 without rows."""
    return rows.square().sum() / max(len(rows), 1)


def class_entropy(logits: Tensor, targets: Targets, rows: Tensor, multi_label: bool) -> Tensor:
    """Cross-entropy of logits f32[B,C] of the items `rows` i64[B], over those whose classes are known.

    Softmax over class_id; where `multi_label`, sigmoid cross-entropy over the labels, summed, mean over items.
    """
    known = targets.has_labels[rows] if multi_label else targets.class_id[rows] != UNKNOWN
    if not bool(known.any()):
        return logits.sum() * 0.0
    if multi_label:
        wanted = targets.labels[rows][known]
        return F.binary_cross_entropy_with_logits(logits[known], wanted, reduction="none").sum(dim=1).mean()
    return F.cross_entropy(logits[known], targets.class_id[rows][known])


def alpha_distance(net: CmirNet, alpha: float) -> Tensor:
    """||w_a - alpha||_F^2 + ||w_b - alpha||_F^2 over the encoders' matrices, each divided by its size."""
    weights = [net.encoders.get_parameter(f"{name}.weight") for name in net.config.modalities]
    return torch.stack([(weight - alpha).square().mean() for weight in weights]).sum()


def pairs_of(targets: Targets, rows_a: Tensor, rows_b: Tensor) -> tuple[Tensor, Tensor]:
    """Which items of a and b (places in `rows_a` and `rows_b`) are trained to meet, i64[P] each.

    All with one pair_id, where any share one. Else, as published for speech: for each item of a and each of its labels
    one random item of b that names this label alone (any that carries it, where none does); and where a has no labels,
    one random item of b of the same class.
    """
    pair_a, pair_b = targets.pair_id[rows_a], targets.pair_id[rows_b]
    same = (pair_a[:, None] == pair_b[None]) & (pair_a != UNKNOWN)[:, None]
    if bool(same.any()):
        left, right = same.nonzero(as_tuple=True)
        return left, right
    if bool(targets.has_labels[rows_a].any()):
        labels_a, labels_b = targets.labels[rows_a], targets.labels[rows_b]
        single = labels_b * (labels_b.sum(dim=1, keepdim=True) == 1)
        named = torch.where(single.sum(dim=0) > 0, single, labels_b)  # f32[B,L]
        left, label = (labels_a > 0).nonzero(as_tuple=True)
        return _draw(left, named.T[label])
    class_a, class_b = targets.class_id[rows_a], targets.class_id[rows_b]
    left = (class_a != UNKNOWN).nonzero().flatten()
    return _draw(left, (class_a[left][:, None] == class_b[None]).float())


def _draw(left: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of candidates f32[P,B] one of its nonzero columns at random; rows without any are left out."""
    possible = (candidates.sum(dim=1) > 0) if candidates.shape[1] else torch.zeros_like(left, dtype=torch.bool)
    if not bool(possible.any()):
        return left[:0], left[:0]
    return left[possible], torch.multinomial(candidates[possible], 1).flatten()


def _rows_by_modality(net: CmirNet, targets: Targets) -> dict[str, Tensor]:
    return {name: (targets.modality == MODALITIES.index(name)).nonzero().flatten() for name in net.config.modalities}
