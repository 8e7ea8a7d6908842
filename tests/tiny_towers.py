"""Checkpoints as transformers writes them, tiny and random: hidden size 32, two layers."""

import json
from pathlib import Path
from typing import Any

import torch

from cmir.network.transformers_import import import_transformers

IMAGE_FAMILIES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "siglip_vision_model", "siglip2_vision_model")
SPEECH_FAMILIES = ("wav2vec2", "hubert", "wavlm", "whisper")
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
# One frame of 20 samples in place of 320, and two convolutions in place of seven; the first normalises over time.
_WAVES: dict[str, Any] = {
    **_SIZES,
    "conv_dim": (32, 32),
    "conv_kernel": (40, 3),
    "conv_stride": (20, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def write_tower(folder: Path, family: str, *, seed: int = 0, processor: dict[str, Any] | None = None) -> str:
    """A checkpoint of the family, "siglip" and "siglip2" for whole models; returns the folder."""
    hf = import_transformers()
    patches = {**_SIZES, "image_size": 32, "patch_size": 8}
    torch.manual_seed(seed)
    match family:
        case "vit":
            model = hf.ViTForImageClassification(hf.ViTConfig(**patches))
        case "dinov2":
            model = hf.Dinov2Model(hf.Dinov2Config(**patches))
        case "dinov2_with_registers":
            model = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**patches))
        case "dinov3_vit":
            model = hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**patches, num_register_tokens=4))
        case "siglip_vision_model":
            model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**patches))
        case "siglip2_vision_model":
            model = hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**_SIZES, patch_size=8, num_patches=16))
        case "siglip":
            text = {**_SIZES, "vocab_size": 50, "projection_size": 32}
            model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=patches))
        case "siglip2":
            text = {**_SIZES, "vocab_size": 50, "projection_size": 32}
            vision = {**_SIZES, "patch_size": 8, "num_patches": 16}
            model = hf.Siglip2Model(hf.Siglip2Config(text_config=text, vision_config=vision))
        case "wav2vec2":
            model = hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**_WAVES))
        case "hubert":
            model = hf.HubertModel(hf.HubertConfig(**_WAVES, feat_extract_norm="layer", do_stable_layer_norm=True))
        case "wavlm":
            model = hf.WavLMModel(hf.WavLMConfig(**_WAVES))
        case "whisper":
            sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48,
                     "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "num_mel_bins": 16,
                     "vocab_size": 60, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1,
                     "decoder_start_token_id": 1}  # fmt: skip
            model = hf.WhisperForConditionalGeneration(hf.WhisperConfig(**sizes))
        case _:
            raise ValueError(family)
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)
