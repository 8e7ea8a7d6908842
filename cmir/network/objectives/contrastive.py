"""Unit vectors of any modalities and what is known of them -> one loss that makes the shared space.

    labels      sigmoid loss of every item against every label's prototype: an item may carry many labels, and each
                (item, label) is judged by itself (SigLIP: Zhai et al., ICCV 2023, equation 1, with prototypes in the
                place of texts); of an utterance, which names labels but denies none, the softmax over prototypes
    classes     cross-entropy over class prototypes, where items know their class
    pairs       InfoNCE in both directions between items of two modalities that show the same ground at the same time
                (van den Oord et al., 2018; CLIP: Radford et al., 2021)
    modalities  items of two modalities attract each other by the labels they share (supervised contrastive, Khosla et
                al., 2020, with soft targets: the share of the smaller label set that is common)
    words       1 - cosine of an utterance and the sum of its labels' prototypes, brought to length 1: words are where
                their labels are, and several words between them, so that what is near is ranked as by the labels
                themselves; the prototypes are not moved by it

A term without anything to compare in a batch is zero. Every term but `words` compares with negatives, so the collapsed
solution, which CMIR-NET needs a regulariser against (PAPER, section 2), is never the best one.

With several workers the vectors of all of them are gathered, so that every worker computes the loss of the whole batch;
averaging the workers' parameter gradients then gives exactly the gradient of one process with the whole batch.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cmir.archive.schema import MODALITIES
from cmir.network.catalogue import UNKNOWN

Term = Literal["labels", "classes", "pairs", "modalities", "words"]
TERMS: Final[tuple[Term, ...]] = ("labels", "classes", "pairs", "modalities", "words")
_MAX_LOG_SCALE: Final = math.log(100.0)  # CLIP's bound of the temperature


class ContrastiveWeights(BaseModel):
    """How much each term counts; zero leaves it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: float = Field(default=0.25, ge=0)
    classes: float = Field(default=0.25, ge=0)
    pairs: float = Field(default=0.25, ge=0)
    modalities: float = Field(default=0.1, ge=0)
    words: float = Field(default=0.75, ge=0)


@dataclass(frozen=True)
class Targets:
    """What is known of N items of a batch, row by row.

    modality i64[N], an index into schema.MODALITIES; labels f32[N,L] 0 or 1; has_labels bool[N], false where nothing is
    known of labels, true without any where it is known that there is none; class_id and pair_id i64[N], UNKNOWN where
    there is none. Items with one pair_id show one ground.
    """

    modality: Tensor
    labels: Tensor
    has_labels: Tensor
    class_id: Tensor
    pair_id: Tensor

    @classmethod
    def joined(cls, parts: "list[Targets]") -> Self:
        """Rows of several parts of a batch after each other."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    def packed(self) -> Tensor:
        """All of it as f64[N,4+L], in which integers up to 2^53 are exact: what travels between workers at once."""
        numbers = torch.stack([self.modality, self.has_labels.long(), self.class_id, self.pair_id], dim=1)
        return torch.cat([numbers.double(), self.labels.double()], dim=1)

    @classmethod
    def unpacked(cls, packed: Tensor) -> Self:
        """What `packed` made f64[N,4+L] of."""
        modality, has_labels, class_id, pair_id = packed[:, :4].long().unbind(dim=1)
        return cls(modality, packed[:, 4:].float(), has_labels.bool(), class_id, pair_id)

    def to(self, device: torch.device | str) -> "Targets":
        """The same on another device."""
        return Targets(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class ContrastiveObjective(nn.Module):
    """The weighted sum of the terms; holds what only training needs: class prototypes and the pairs' temperature."""

    def __init__(self, weights: ContrastiveWeights, *, dim: int, num_classes: int) -> None:
        super().__init__()
        self.weights = weights
        self.class_prototypes = nn.Parameter(torch.randn(num_classes, dim))
        self.class_log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.pair_log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(
        self, vectors: Tensor, targets: Targets, prototypes: Tensor, log_scale: Tensor, bias: Tensor
    ) -> dict[str, Tensor]:
        """The terms with a weight, already weighted, each a scalar; their sum is the loss.

        Args:
            vectors: f32[N,D] of length 1, this worker's items; N may differ between workers.
            targets: of the same items.
            prototypes: f32[L,D] of length 1.
            log_scale: f32[], log of the temperature's inverse of the label term.
            bias: f32[] of the label term.
        """
        vectors, targets = gather_rows(vectors), gather_targets(targets)
        terms: dict[str, Tensor] = {}
        if self.weights.labels:
            terms["labels"] = label_loss(vectors, targets, prototypes, log_scale, bias)
        if self.weights.classes:
            scale = self.class_log_scale.clamp(max=_MAX_LOG_SCALE).exp()
            terms["classes"] = class_loss(vectors, targets, F.normalize(self.class_prototypes, dim=-1), scale)
        pair_scale = self.pair_log_scale.clamp(max=_MAX_LOG_SCALE).exp()
        if self.weights.pairs:
            terms["pairs"] = pair_loss(vectors, targets, pair_scale)
        if self.weights.modalities:
            terms["modalities"] = modality_loss(vectors, targets, pair_scale)
        if self.weights.words:
            terms["words"] = word_loss(vectors, targets, prototypes)
        return {name: getattr(self.weights, name) * value for name, value in terms.items()}


def label_loss(vectors: Tensor, targets: Targets, prototypes: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid cross-entropy of scale * cosine + bias against the labels, summed over labels, mean over items f32[].

    An utterance names labels and denies none: where it names any, it is the cross-entropy of the softmax over labels of
    scale * cosine, against an equal share for each label named.
    """
    rows = targets.has_labels
    if not bool(rows.any()) or not len(prototypes):
        return _zero(vectors)
    labels = targets.labels[rows]
    logits = vectors[rows] @ prototypes.T * log_scale.clamp(max=_MAX_LOG_SCALE).exp()
    naming = names_labels(targets)[rows]
    shown = F.binary_cross_entropy_with_logits(logits + bias, labels, reduction="none").sum(dim=1)
    named = F.cross_entropy(logits, labels / labels.sum(dim=1, keepdim=True).clamp_min(1.0), reduction="none")
    return torch.where(naming, named, shown).mean()


def class_loss(vectors: Tensor, targets: Targets, prototypes: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy over scale * cosine to class prototypes f32[K,D], mean over items that know their class, f32[]."""
    rows = targets.class_id != UNKNOWN
    if not bool(rows.any()) or len(prototypes) < 2:
        return _zero(vectors)
    logits = vectors[rows] @ prototypes.T * scale
    return F.cross_entropy(logits, targets.class_id[rows], label_smoothing=0.1)


def pair_loss(vectors: Tensor, targets: Targets, scale: Tensor) -> Tensor:
    """Mean InfoNCE over both directions of all modality pairs that share ground in this batch, f32[]."""
    losses = []
    for left, right in _modality_pairs(targets.modality):
        same = targets.pair_id[left][:, None] == targets.pair_id[right][None]
        same &= targets.pair_id[left][:, None] != UNKNOWN
        if bool(same.any()):
            logits = vectors[left] @ vectors[right].T * scale
            losses += [info_nce(logits, same.float()), info_nce(logits.T, same.T.float())]
    return torch.stack(losses).mean() if losses else _zero(vectors)


def modality_loss(vectors: Tensor, targets: Targets, scale: Tensor) -> Tensor:
    """Mean soft InfoNCE over both directions of all modality pairs, attracted by the share of common labels, f32[]."""
    losses = []
    for left, right in _modality_pairs(targets.modality):
        both = [rows[targets.has_labels[rows]] for rows in (left, right)]
        share = label_share(targets.labels[both[0]], targets.labels[both[1]])
        if bool((share > 0).any()):
            logits = vectors[both[0]] @ vectors[both[1]].T * scale
            losses += [info_nce(logits, share), info_nce(logits.T, share.T)]
    return torch.stack(losses).mean() if losses else _zero(vectors)


def names_labels(targets: Targets) -> Tensor:
    """bool[N]: the utterances that name a label or more."""
    return (targets.modality == MODALITIES.index("speech")) & targets.has_labels & targets.labels.any(dim=1)


def word_loss(vectors: Tensor, targets: Targets, prototypes: Tensor) -> Tensor:
    """Mean over utterances with labels of 1 - cosine to the direction of their prototypes' sum, f32[]."""
    rows = names_labels(targets)
    if not bool(rows.any()):
        return _zero(vectors)
    places = F.normalize(targets.labels[rows] @ prototypes.detach(), dim=-1)
    return (1.0 - (vectors[rows] * places).sum(dim=1)).mean()


def info_nce(logits: Tensor, positives: Tensor) -> Tensor:
    """-sum_j p_ij log softmax_j(logits_i), p = positives / their row sum; mean over rows with any positive, f32[].

    Args:
        logits: f32[A,B], scaled similarities.
        positives: f32[A,B], how much column j is a positive of row i, 0..1.

    >>> round(float(info_nce(torch.zeros(8, 8), torch.eye(8))), 4)  # a collapsed batch of 8 pairs: ln 8
    2.0794
    """
    weight = positives.sum(dim=1)
    rows = weight > 0
    log_share = F.log_softmax(logits[rows], dim=1)
    return -((positives[rows] / weight[rows, None]) * log_share).sum(dim=1).mean()


def label_share(left: Tensor, right: Tensor) -> Tensor:
    """|A and B| / min(|A|, |B|) for label sets f32[A,L] and f32[B,L] -> f32[A,B]; 0 where either set is empty.

    1 where one contains the other: an utterance of one label is fully answered by an image of five with that label.
    """
    common = left @ right.T
    smaller = torch.minimum(left.sum(dim=1)[:, None], right.sum(dim=1)[None])
    return common / smaller.clamp_min(1.0)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows [N,...] of all workers, in rank order, with gradients; the same tensor where there is one worker."""
    if not _is_distributed():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def gather_targets(targets: Targets) -> Targets:
    """The targets of all workers' rows, in rank order."""
    if not _is_distributed():
        return targets
    return Targets.unpacked(_all_rows(targets.packed())[0])


class _GatherRows(torch.autograd.Function):
    """all_gather whose backward sums what every worker's copy of the loss says of this worker's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered, ctx.start = _all_rows(rows)
        ctx.num_rows = len(rows)
        return gathered

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.num_rows]


def _all_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all workers and where this worker's begin; N may differ, so rows travel padded to the largest N."""
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], dtype=torch.int64, device=rows.device))
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    joined = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return joined, sum(sizes[: dist.get_rank()])


def _modality_pairs(modality: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Row numbers of every two different modalities of the batch."""
    present = torch.unique(modality).tolist()
    rows = {name: torch.nonzero(modality == name).flatten() for name in present}
    return [(rows[a], rows[b]) for i, a in enumerate(present) for b in present[i + 1 :]]


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _zero(vectors: Tensor) -> Tensor:
    """A zero that keeps the graph, so that a batch without anything to compare still has gradients."""
    return vectors.sum() * 0.0
