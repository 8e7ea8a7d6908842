"""A speech recogniser of transformers as a second ear: its text is looked up among the spoken forms.

Recognisers with a CTC head (wav2vec2, HuBERT, WavLM and others) and those that write word by word (Whisper and others),
from a local folder or a hub id, safetensors only (see pretrained_source). The confidence is the geometric mean of the
probabilities of what was written; a text with a part that is no spoken form names nothing, with confidence 0.
"""

import threading
from pathlib import Path
from typing import Any, Final

import torch

from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.errors import ConfigError
from cmir.network.pretrained_source import SETTINGS_FILE, folder_of
from cmir.network.second_ear import F32, Said, cut
from cmir.network.spoken_forms import FormIndex, Forms
from cmir.network.transformers_import import import_transformers, refused

_TOKENIZER_FILES: Final = (
    *("vocab.json", "merges.txt", "normalizer.json", "added_tokens.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
_MOST_TOKENS: Final = 32  # of three labels in the longest words
_ONLY_IN_TRAINING: Final = ("masked_spec_embed",)


class TransformersEar:
    """Listens for spoken forms of any language that its model knows; one utterance at a time."""

    def __init__(self, name: str, forms: Forms, *, device: torch.device) -> None:
        """Raises ConfigError where transformers is not installed, or no speech recogniser with its weights and its
        tokenizer can be read there."""
        self.name = name
        self._index, self._device, self._busy = FormIndex(forms), device, threading.Lock()
        hf, folder = import_transformers(), folder_of(name, also=_TOKENIZER_FILES)
        with refused("recogniser cannot be read", where=name, expected="a recogniser with tokenizer and processor"):
            config = hf.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self._processor: Any = hf.AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        self._writes = _writes(config, name)
        model_type = hf.AutoModelForSpeechSeq2Seq if self._writes else hf.AutoModelForCTC
        self._model = _model(model_type, folder, name).to(device).eval().requires_grad_(False)
        rate_hz = self._processor.feature_extractor.sampling_rate
        if rate_hz != SAMPLE_RATE_HZ:
            what = "recogniser of another sampling rate"
            raise ConfigError(what, seen=rate_hz, expected=SAMPLE_RATE_HZ, where=name)

    def listen(self, waveform: F32) -> Said:
        """What an utterance f32[T] at 16 kHz says."""
        with self._busy, torch.inference_mode():
            heard = self._processor(cut(waveform), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").to(self._device)
            text, confidence = self._written(heard) if self._writes else self._spelt(heard)
        labels = self._index.labels_in(text)
        return Said(text, labels, confidence if labels else 0.0)

    def _spelt(self, heard: Any) -> tuple[str, float]:
        """The best sign of each frame; how probable those are that are no blank."""
        log_probabilities = self._model(**heard).logits[0].float().log_softmax(-1)
        best, signs = log_probabilities.max(-1)
        spoken = best[signs != self._model.config.pad_token_id]
        text = str(self._processor.decode(signs.cpu()))
        return text.strip(), float(spoken.mean().exp()) if len(spoken) else 0.0

    def _written(self, heard: Any) -> tuple[str, float]:
        """The best token after the ones before; how probable they are."""
        told = self._model.generate(
            **heard,
            max_new_tokens=_MOST_TOKENS,
            num_beams=1,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        log_probabilities = self._model.compute_transition_scores(told.sequences, told.scores, normalize_logits=True)[0]
        text = str(self._processor.batch_decode(told.sequences, skip_special_tokens=True)[0])
        return text.strip(), float(log_probabilities.float().mean().exp()) if len(log_probabilities) else 0.0


def _writes(config: Any, name: str) -> bool:
    """Whether it writes word by word, by the head its settings name. Raises ConfigError for other models."""
    heads = [str(head) for head in config.architectures or ()]
    if any(head.endswith("ForCTC") for head in heads):
        return False
    if any(head.endswith(("ForConditionalGeneration", "ForSpeechSeq2Seq")) for head in heads):
        return True
    expected = "architectures ending in ForCTC or ForConditionalGeneration"
    what, where = "the checkpoint is no speech recogniser", f"{name}, {SETTINGS_FILE}"
    raise ConfigError(what, seen=", ".join(heads) or "no architectures", expected=expected, where=where)


def _model(model_type: Any, folder: Path, name: str) -> Any:
    with refused("recogniser's tensors cannot be read", where=name, expected=f"those of {model_type.__name__}"):
        model, found = model_type.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = sorted(key for key in found["missing_keys"] if not key.endswith(_ONLY_IN_TRAINING))
    if missing:
        seen = f"{len(missing)} not there, as {missing[0]}"
        raise ConfigError("recogniser lacks tensors", seen=seen, expected="all of its model", where=name)
    return model
