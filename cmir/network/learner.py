"""A network, its objective and its optimiser as one thing that takes a batch and is better afterwards.

Every random draw of a step comes from (seed, step, rank), so a step is the same whether or not the process was started
again before it. Workers average their gradients by hand: together with the gathered loss (objectives/contrastive.py)
that gives the gradient of one process with the whole batch, also where a worker's part lacks a modality.
"""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cmir.errors import DataError
from cmir.network.augment import VariedBatch, vary_batch
from cmir.network.augment_spectrogram import SpectrogramAugmenter
from cmir.network.augment_speech import SpeechAugmenter
from cmir.network.batches import Batch, SpeechPart
from cmir.network.compiled import compile_trunk
from cmir.network.model import ImageInput, SharedSpaceNet
from cmir.network.objectives.contrastive import ContrastiveObjective
from cmir.network.optimizer import KernelOptimizer
from cmir.network.precision import is_bfloat16, lay_channels_last
from cmir.network.pretrained_training import backbone_groups
from cmir.network.training_settings import TrainSettings

_WARMUP_FRACTION: Final = 0.1


class DivergedError(DataError):
    """Loss or gradient of a step are not finite numbers; the weights are those of the step before."""


class Learner:
    """Holds everything that training changes: `net`, its running average `average`, objective, optimiser.

    `is_judged`: whether figures of the weights say how good the training is; from the first step on.
    """

    is_judged: Final = True

    def __init__(
        self, net: SharedSpaceNet, objective: ContrastiveObjective, settings: TrainSettings, device: torch.device
    ) -> None:
        self.settings, self.device = settings, device
        self.is_bfloat16 = is_bfloat16(settings.precision, device)
        is_on_cuda = device.type == "cuda"
        self.net = net.to(device)
        if is_on_cuda:
            lay_channels_last(self.net)
        self.objective = objective.to(device)
        frozen = {id(parameter): parameter for parameter in self.net.parameters() if not parameter.requires_grad}
        self.average = copy.deepcopy(self.net, frozen).requires_grad_(False)  # what stays as it is exists once
        if settings.compile == "always" or (settings.compile == "cuda" and is_on_cuda):
            compile_trunk(self.net)
        self.augment_speech = SpeechAugmenter().to(device)
        self.optimizer = KernelOptimizer(
            self.net.kernels(),
            self._parameter_groups(),
            learning_rate=settings.learning_rate,
            kernel_learning_rate=settings.kernel_learning_rate,
            kernel_decay=settings.kernel_decay,
            in_bfloat16=self.is_bfloat16,
        )

    def prepare(self, batch: Batch, *, step: int, fraction: float, rank: int = 0) -> VariedBatch:
        """What `step` takes; touches nothing that a step changes, so it may run ahead in a thread."""
        sizes = {part.modality: self.settings.size_px_at(part.modality, fraction) for part in batch.images}
        generator = torch.Generator().manual_seed(step_seed(self.settings.seed, step, rank))
        return vary_batch(batch, sizes, self.settings.image_augmentation, generator, self.device)

    def step(self, batch: VariedBatch, *, step: int, fraction: float, rank: int = 0) -> dict[str, float]:
        """One update; `fraction` 0..1 is how much of the whole training has passed. Returns the terms and their sum.

        Raises DivergedError, the weights as they were, where the loss or its gradient is not finite.
        """
        rate = learning_rate(self.settings, step, fraction)
        self.optimizer.set_learning_rate(rate)
        self.net.train()
        self.optimizer.zero_grad()
        self._set_speech_strength(fraction)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if self.device.type == "cuda" else ()):
            torch.manual_seed(step_seed(self.settings.seed, step, rank))
            terms = self._backward(batch)
        average_gradients(list(self._parameters()))
        norm = nn.utils.clip_grad_norm_(list(self._parameters()), self.settings.max_gradient_norm)
        values = finite_values(terms, norm, step)
        self.optimizer.step()
        self._update_average(step)
        return {**values, "learning_rate": rate}

    def _backward(self, batch: VariedBatch) -> dict[str, Tensor]:
        """The weighted terms of a batch, their gradients left in the parameters.

        With several accumulation steps the chips pass the tower twice (Gao et al., "Scaling deep contrastive learning
        batch size under memory limited setup", 2021): part by part without a graph, for the loss of the whole batch
        and its gradient by every vector, then part by part with one, to take that gradient on to the weights. The
        image tower draws nothing and knows no batch statistics, so the sum is the gradient of the undivided batch.
        Speech, whose batch norm must see all of it, is not divided.
        """
        parts = divided(batch.images, self.settings.accumulation_steps)
        if len(parts) < 2:
            terms = self._terms([self._encode_images(part) for part in parts], batch)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            return terms
        with torch.no_grad():
            vectors = [self._encode_images(part) for part in parts]
        for part_vectors in vectors:
            part_vectors.requires_grad_()
        terms = self._terms(vectors, batch)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        for part, part_vectors in zip(parts, vectors, strict=True):
            self._encode_images(part).backward(part_vectors.grad)  # type: ignore[no-untyped-call]
        return terms

    def _terms(self, image_vectors: list[Tensor], batch: VariedBatch) -> dict[str, Tensor]:
        vectors = image_vectors + [self._encode_speech(part) for part in batch.speech]
        if not vectors:  # this worker has no share of the step, but takes part in what all gather
            vectors = [torch.zeros(0, self.settings.dim, device=self.device, requires_grad=True)]
        net = self.net
        terms: dict[str, Tensor] = self.objective(
            torch.cat(vectors), batch.targets, net.unit_prototypes(), net.logit_scale, net.logit_bias
        )
        return terms

    def state(self) -> dict[str, Any]:
        """Tensors and numbers from which `load_state` goes on."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same settings."""
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _encode_images(self, chips: Sequence[ImageInput]) -> Tensor:
        with self._autocast():
            return self.net.encode_images(chips)

    def _encode_speech(self, part: SpeechPart) -> Tensor:
        sound, num_samples = part.waveform, part.num_samples
        with self._autocast():
            if not part.is_features:
                sound, num_samples = self.augment_speech(sound, num_samples)
            return self.net.encode_speech(sound, num_samples)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_bfloat16)

    def _set_speech_strength(self, fraction: float) -> None:
        for module in (self.augment_speech, *self.net.modules()):
            if isinstance(module, SpeechAugmenter | SpectrogramAugmenter):
                module.set_strength(self.settings.speech_strength_at(fraction))

    def _parameters(self) -> Iterator[nn.Parameter]:
        """What is trained; frozen towers are not."""
        for module in (self.net, self.objective):
            yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """All but the kernels: matrices decay; gains, biases, temperatures and points of the space do not."""
        settings, backbones = self.settings, self.net.backbones()
        points = {id(self.net.prototypes), id(self.objective.class_prototypes)}
        elsewhere = {id(p) for backbone in backbones for p in backbone.parameters()}
        elsewhere |= {id(kernel) for kernel in self.net.kernels()}
        own = [p for p in self._parameters() if id(p) not in elsewhere]
        decaying = [p for p in own if p.ndim > 1 and id(p) not in points]
        others = [p for p in own if p.ndim <= 1 or id(p) in points]
        rate_scale = settings.tower_learning_rate / settings.learning_rate
        return [
            {"params": decaying, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
            *backbone_groups(backbones, weight_decay=settings.weight_decay, rate_scale=rate_scale),
        ]

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        """Exponential moving average whose memory grows with the number of steps."""
        keep = min(self.settings.average_decay, (1 + step) / (10 + step))
        pairs = zip(self.average.parameters(), self.net.parameters(), strict=True)
        kept, current = zip(*((mine, theirs) for mine, theirs in pairs if theirs.requires_grad), strict=True)
        torch._foreach_lerp_(kept, current, 1.0 - keep)
        for mine, theirs in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mine.copy_(theirs)


def learning_rate(settings: TrainSettings, step: int, fraction: float) -> float:
    """Linear warm-up, times half a cosine down to a hundredth at `fraction` 1.

    The warm-up takes `warmup_steps`, but of a training of few steps no more than a tenth.
    """
    warmup = min(1.0, max((step + 1) / settings.warmup_steps, fraction / _WARMUP_FRACTION))
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, fraction))
    return settings.learning_rate * warmup * max(cosine, 0.01)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of all that one worker draws in one step."""
    return (seed * 1_000_003 + step) * 4096 + rank


def finite_values(terms: Mapping[str, Tensor], gradient_norm: Tensor, step: int) -> dict[str, float]:
    """The terms, their sum `loss` and the norm of its gradient as numbers. Raises DivergedError where one is not."""
    numbers = torch.stack([*(term.detach().float() for term in terms.values()), gradient_norm.float()]).tolist()
    if not all(map(math.isfinite, numbers)):
        seen = ", ".join(f"{name} {number:g}" for name, number in zip([*terms, "gradient"], numbers, strict=True))
        fix = "look for extreme values in the items or lower the learning rate; the last checkpoint is as it was"
        raise DivergedError("training diverged", seen=seen, expected="finite numbers", where=f"step {step}", fix=fix)
    return {"loss": sum(numbers[:-1]), **dict(zip(terms, numbers, strict=False)), "gradient_norm": numbers[-1]}


def divided(images: Sequence[ImageInput], num_parts: int) -> list[list[ImageInput]]:
    """Chips in at most so many runs of nearly equal length, in the order in which they stand.

    A modality's chips may be divided between two runs.
    """
    total = sum(len(part.gsd_m) for part in images)
    bounds = [i * total // num_parts for i in range(num_parts + 1)]
    runs: list[list[ImageInput]] = []
    for first, end in itertools.pairwise(bounds):
        run, start = [], 0
        for part in images:
            rows = slice(max(first - start, 0), max(end - start, 0))
            start += len(part.gsd_m)
            if len(part.gsd_m[rows]):
                run.append(part._replace(pixels=part.pixels[rows], gsd_m=part.gsd_m[rows]))
        if run:
            runs.append(run)
    return runs


@torch.no_grad()
def share_weights(net: nn.Module) -> None:
    """Rank 0's weights on all workers: those of unlike machines round differently and drift apart. Alone, nothing."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        weights = [parameter for parameter in net.parameters() if parameter.requires_grad]
        flat = torch.cat([weight.flatten() for weight in weights])
        dist.broadcast(flat, 0)
        for weight, part in zip(weights, torch.split(flat, [weight.numel() for weight in weights]), strict=True):
            weight.copy_(part.view_as(weight))


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over workers; a worker without one counts as zero. Alone, nothing changes."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, gradient in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)
