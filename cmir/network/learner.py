"""A network, its objective and its optimiser as one thing that takes a batch and is better afterwards.

Every random draw of a step comes from (seed, step, rank), so a step is the same whether or not the process was started
again before it. Workers average their gradients by hand: together with the gathered loss (objectives/contrastive.py)
that gives the gradient of one process with the whole batch, also where a worker's part lacks a modality.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from cmir.network.augment import augment_chips, draw_frames
from cmir.network.augment_speech import SpectrogramAugmenter, SpeechAugmenter
from cmir.network.batches import CACHE_MARGIN, Batch, ImagePart, SpeechPart
from cmir.network.model import ImageInput, SharedSpaceNet
from cmir.network.objectives.contrastive import ContrastiveObjective
from cmir.network.pretrained_training import backbone_groups
from cmir.network.training_settings import TrainSettings

_ADAM_BETAS: Final = (0.9, 0.98)  # a shorter memory of squares than 0.999 suits runs of a few thousand steps


class Learner:
    """Holds everything that training changes: `net`, its running average `average`, objective, optimiser."""

    def __init__(
        self, net: SharedSpaceNet, objective: ContrastiveObjective, settings: TrainSettings, device: torch.device
    ) -> None:
        self.settings, self.device = settings, device
        self.net = net.to(device)
        self.objective = objective.to(device)
        frozen = {id(parameter): parameter for parameter in self.net.parameters() if not parameter.requires_grad}
        self.average = copy.deepcopy(self.net, frozen).requires_grad_(False)  # what stays as it is exists once
        self.augment_speech = SpeechAugmenter()
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=settings.learning_rate, betas=_ADAM_BETAS, fused=True
        )

    def step(self, batch: Batch, *, step: int, fraction: float, rank: int = 0) -> dict[str, float]:
        """One update; `fraction` 0..1 is how much of the whole training has passed. Returns the terms and their sum."""
        rate = learning_rate(self.settings, step, fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_scale", 1.0)
        self.net.train()
        self.optimizer.zero_grad()
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if self.device.type == "cuda" else ()):
            seed = (self.settings.seed * 1_000_003 + step) * 4096 + rank
            torch.manual_seed(seed)
            terms = self.loss_terms(batch, torch.Generator().manual_seed(seed), fraction)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(list(self._parameters()))
        nn.utils.clip_grad_norm_(list(self._parameters()), self.settings.max_gradient_norm)
        self.optimizer.step()
        self._update_average(step)
        values = {name: float(term.detach()) for name, term in terms.items()}
        return {"loss": sum(values.values()), "learning_rate": rate, **values}

    def loss_terms(self, batch: Batch, generator: torch.Generator, fraction: float) -> dict[str, Tensor]:
        """The weighted terms of the objective for a varied batch."""
        bf16 = self.device.type == "cuda"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            frames = draw_frames(batch, self.settings.augmentation, generator)
            looks = zip(batch.images, frames, strict=True)
            chips = [self._vary_chips(part, frame, generator, fraction) for part, frame in looks]
            vectors = [self.net.encode_images(chips)] if chips else []
            self._set_speech_strength(fraction)
            vectors += [self._encode_speech(part) for part in batch.speech]
        net = self.net
        terms: dict[str, Tensor] = self.objective(
            torch.cat(vectors),
            batch.targets.to(self.device),
            net.unit_prototypes(),
            net.logit_scale,
            net.logit_bias,
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

    def _vary_chips(self, part: ImagePart, frames: Tensor, generator: torch.Generator, fraction: float) -> ImageInput:
        size_px = self.settings.size_px_at(part.modality, fraction)
        pixels = part.pixels(self.device)
        enough_px = round(size_px * CACHE_MARGIN)
        if pixels.shape[-1] > enough_px:  # while chips are small: the cut below would skip pixels
            pixels = F.interpolate(pixels, size=(enough_px, enough_px), mode="bilinear", antialias=True)
        pixels, gsd_m = augment_chips(pixels, part.gsd_m, frames, size_px, self.settings.augmentation, generator)
        return ImageInput(part.modality, pixels, part.wavelength_nm.to(self.device), gsd_m)

    def _encode_speech(self, part: SpeechPart) -> Tensor:
        sound, num_samples = part.waveform.to(self.device), part.num_samples.to(self.device)
        if not part.is_features:
            sound, num_samples = self.augment_speech(sound, num_samples)
        return self.net.encode_speech(sound, num_samples)

    def _set_speech_strength(self, fraction: float) -> None:
        for module in (self.augment_speech, *self.net.modules()):
            if isinstance(module, SpeechAugmenter | SpectrogramAugmenter):
                module.set_strength(self.settings.speech_strength_at(fraction))

    def _parameters(self) -> Iterator[nn.Parameter]:
        """What is trained; frozen towers are not."""
        for module in (self.net, self.objective):
            yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Kernels and matrices decay; gains, biases, temperatures and points of the space do not."""
        settings, backbones = self.settings, self.net.backbones()
        points = {id(self.net.prototypes), id(self.objective.class_prototypes)}
        pretrained = {id(p) for backbone in backbones for p in backbone.parameters()}
        own = [p for p in self._parameters() if id(p) not in pretrained]
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
    """Linear warm-up over `warmup_steps`, then half a cosine down to a hundredth at `fraction` 1."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, fraction))
    return settings.learning_rate * warmup * max(cosine, 0.01)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over workers; a worker without one counts as zero. Alone, nothing changes."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, gradient in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter).clone()
