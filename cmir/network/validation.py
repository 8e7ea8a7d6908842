"""How good the space is on the val split, in seconds: figures for progress and for choosing the best weights.

Average precision of labels (spoken and as prototypes) and mean reciprocal rank of pairs and of classes. These steer
training only; what is reported is measured by cmir/evaluation on the test split.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cmir.archive.schema import MODALITIES
from cmir.network.batches import Batch, collate
from cmir.network.build import Network
from cmir.network.catalogue import UNKNOWN, Array, Catalogue
from cmir.network.hearing import Floats, auroc, heard_scores, heard_threshold
from cmir.network.item_loader import ItemLoader
from cmir.network.objectives.contrastive import Targets
from cmir.network.preprocessing import Preprocessing

MAX_GROUNDS: Final = 1000
MAX_UTTERANCES: Final = 1000
HEARD_THRESHOLD: Final = "speech_heard_threshold"
_CHUNK: Final = 64


class Validation:
    """Holds the decoded val split; `figures` embeds it and measures."""

    def __init__(self, catalogue: Catalogue, preprocessing: Preprocessing) -> None:
        loader = ItemLoader(catalogue, preprocessing, margin=1.0)
        items = list(loader.load(judged_items(catalogue)).values())
        self._batches = [collate(items[i : i + _CHUNK], catalogue, preprocessing) for i in range(0, len(items), _CHUNK)]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to measure."""
        return not self._batches

    def figures(self, net: Network, device: torch.device) -> dict[str, float]:
        """Figures by name, each 0..1, and `score`, the mean over kinds of knowledge, by which weights are chosen.

        Beside them HEARD_THRESHOLD, the cosine from which on an utterance counts as one that names a label.
        """
        vectors, targets = self._embedded(net, device)
        kinds = {
            "labels": label_figures(vectors, targets, net.unit_prototypes().cpu()),
            "pairs": pair_figures(vectors, targets),
            "classes": class_figures(vectors, targets),
        }
        words = word_figures(vectors, targets, net.unit_prototypes().cpu())
        measured = [kinds[name] for name in _kinds_of_score(net) if kinds[name]]
        measured = measured or [kinds["classes"] or words]
        score = [float(np.mean(list(figures.values()))) for figures in measured if figures]
        merged = {name: value for figures in (*kinds.values(), words) for name, value in figures.items()}
        if (scores := _heard(vectors, targets, net)) is not None:
            merged |= {"speech_known_auroc": auroc(*scores), HEARD_THRESHOLD: heard_threshold(*scores)}
        return {**merged, "score": float(np.mean(score)) if score else 0.0}

    @torch.inference_mode()
    def _embedded(self, net: Network, device: torch.device) -> tuple[Tensor, Targets]:
        net.eval()
        parts = [_embed(batch, net, device) for batch in self._batches]
        return torch.cat(parts), Targets.joined([batch.targets for batch in self._batches])


def judged_items(catalogue: Catalogue) -> Array:
    """Item numbers of the grounds and utterances that are measured: all, or evenly spread ones of many."""
    chosen = [*_spread(catalogue.grounds(), MAX_GROUNDS), *_spread(catalogue.utterances(), MAX_UTTERANCES)]
    return np.concatenate(chosen)


def _kinds_of_score(net: Network) -> tuple[str, ...]:
    """What the best weights are chosen by; the published network of scene classes is to find classes, not grounds."""
    knows_classes = net.config.cmirnet is not None and not net.config.cmirnet.multi_label
    return ("classes",) if knows_classes else ("labels", "pairs")


def label_figures(vectors: Tensor, targets: Targets, prototypes: Tensor) -> dict[str, float]:
    """`map` between every image modality and single-label speech, or label prototypes where there is no speech."""
    figures: dict[str, float] = {}
    speech = MODALITIES.index("speech")
    spoken = (targets.modality == speech) & (targets.labels.sum(dim=1) == 1)
    words, meant = vectors[spoken], targets.labels[spoken]
    name = "speech"
    if not len(words):
        if len(prototypes) != targets.labels.shape[1]:
            return {}  # a network that knows classes instead of labels
        name, words, meant = "label", prototypes, torch.eye(len(prototypes))
    for modality in range(speech):
        rows = (targets.modality == modality) & targets.has_labels
        relevant = meant @ targets.labels[rows].T > 0
        if bool(relevant.any()):
            scores = words @ vectors[rows].T
            figures[f"{name}_to_{MODALITIES[modality]}_map"] = mean_average_precision(scores, relevant)
            figures[f"{MODALITIES[modality]}_to_{name}_map"] = mean_average_precision(scores.T, relevant.T)
    return figures


def word_figures(vectors: Tensor, targets: Targets, prototypes: Tensor) -> dict[str, float]:
    """The share of utterances of one label whose nearest prototype is that label's."""
    spoken = (targets.modality == MODALITIES.index("speech")) & (targets.labels.sum(dim=1) == 1)
    if not bool(spoken.any()) or len(prototypes) != targets.labels.shape[1]:
        return {}
    nearest = (vectors[spoken] @ prototypes.T).argmax(dim=1)
    return {"speech_named_right": float((nearest == targets.labels[spoken].argmax(dim=1)).double().mean())}


def pair_figures(vectors: Tensor, targets: Targets) -> dict[str, float]:
    """Mean reciprocal rank of the other chip of the ground, in every direction between image modalities."""
    figures: dict[str, float] = {}
    present = [index for index in torch.unique(targets.modality).tolist() if MODALITIES[index] != "speech"]
    for query in present:
        for gallery in present:
            left, right = targets.modality == query, targets.modality == gallery
            same = targets.pair_id[left][:, None] == targets.pair_id[right][None]
            same &= (targets.pair_id[left] != UNKNOWN)[:, None]
            if query != gallery and bool(same.any()):
                scores = vectors[left] @ vectors[right].T
                figures[f"{MODALITIES[query]}_to_{MODALITIES[gallery]}_pair_mrr"] = mean_reciprocal_rank(scores, same)
    return figures


def class_figures(vectors: Tensor, targets: Targets) -> dict[str, float]:
    """`map` by class between every two image modalities; within one, an item does not find itself."""
    figures: dict[str, float] = {}
    known = targets.class_id != UNKNOWN
    present = torch.unique(targets.modality[known]).tolist()
    for query in present:
        for gallery in present:
            left, right = (known & (targets.modality == index) for index in (query, gallery))
            same = targets.class_id[left][:, None] == targets.class_id[right][None]
            scores = vectors[left] @ vectors[right].T
            if query == gallery:
                same, scores = same.fill_diagonal_(False), scores.fill_diagonal_(-2.0)
            if bool(same.any()):
                name = f"{MODALITIES[query]}_to_{MODALITIES[gallery]}_class_map"
                figures[name] = mean_average_precision(scores, same)
    return figures


def mean_average_precision(scores: Tensor, relevant: Tensor) -> float:
    """Mean over queries with any relevant item of the mean precision at each relevant rank; f32[Q,N], bool[Q,N]."""
    queries = relevant.any(dim=1)
    order = scores[queries].argsort(dim=1, descending=True)
    hits = relevant[queries].gather(1, order).double()
    precision = hits.cumsum(dim=1) / torch.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(dim=1) / hits.sum(dim=1)).mean())


def mean_reciprocal_rank(scores: Tensor, relevant: Tensor) -> float:
    """Mean over queries with any relevant item of 1 / rank of the first one; f32[Q,N], bool[Q,N]."""
    queries = relevant.any(dim=1)
    best = scores[queries].masked_fill(~relevant[queries], -2.0).amax(dim=1, keepdim=True)
    rank = ((scores[queries] >= best) & ~relevant[queries]).sum(dim=1) + 1  # ties count against us
    return float((1.0 / rank.double()).mean())


def main_figure(figures: Mapping[str, float]) -> str:
    """The figures of the score in one short line."""
    left_out = ("score", HEARD_THRESHOLD)
    kept = {name: value for name, value in figures.items() if "class" not in name and name not in left_out} or figures
    return "  ".join(f"{name.removesuffix('_map')} {value:.3f}" for name, value in kept.items())


def _heard(vectors: Tensor, targets: Targets, net: Network) -> tuple[Floats, Floats] | None:
    """How near utterances that name a label, and those that name none, lie to the labels; None without either."""
    prototypes = net.unit_prototypes().detach().cpu().numpy()
    spoken = (targets.modality == MODALITIES.index("speech")) & targets.has_labels
    known = targets.labels[spoken].sum(dim=1).numpy() > 0
    if not len(prototypes) or known.all() or not known.any():
        return None
    scores = heard_scores(vectors[spoken].numpy(), prototypes)
    return scores[known], scores[~known]


def _spread(groups: Sequence[Array], limit: int) -> list[Array]:
    """At most `limit` of the groups, evenly spread."""
    step = max(1, -(-len(groups) // limit))
    return list(groups[::step])


def _embed(batch: Batch, net: Network, device: torch.device) -> Tensor:
    """Vectors f32[N,D] on the CPU in the order of the batch's targets."""
    vectors = []
    for part in batch.images:
        conditions = part.wavelength_nm.to(device), part.gsd_m.to(device)
        vectors.append(net.encode_image(part.modality, part.pixels(device), *conditions))
    for sound in batch.speech:
        vectors.append(net.encode_speech(sound.waveform.to(device), sound.num_samples.to(device)))
    return torch.cat(vectors).float().cpu()
