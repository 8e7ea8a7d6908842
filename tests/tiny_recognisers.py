"""Speech recognisers as transformers writes them, tiny and random: one spells, one writes word by word.

With `logit` they say "o" all the time: its logit in every place, those of the other signs 0.
"""

import json
from pathlib import Path

import torch

from cmir.network.transformers_import import import_transformers
from tests.tiny_towers import write_tower

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>")


def write_speller(folder: Path, *, logit: float | None = None) -> str:
    """A wav2vec2 with a CTC head over letters; returns the folder."""
    write_tower(folder, "wav2vec2")  # 32 outputs, of which the first is the blank
    signs = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS, "'"]
    (folder / "vocab.json").write_text(json.dumps({sign: i for i, sign in enumerate(signs)}))
    hf = import_transformers()
    if logit is not None:
        model = hf.Wav2Vec2ForCTC.from_pretrained(folder)
        model.lm_head.weight.data.zero_()
        model.lm_head.bias.data.zero_()[signs.index("o")] = logit
        model.save_pretrained(folder)
    tokenizer = hf.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), do_lower_case=True)
    hf.Wav2Vec2Processor(hf.Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    return str(folder)


def write_writer(folder: Path, *, logit: float | None = None) -> str:
    """A Whisper whose tokens are letters; returns the folder."""
    hf = import_transformers()
    signs = ["!", *LETTERS, "Ġ", *_SPECIAL]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({sign: i for i, sign in enumerate(signs)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    number = {sign: i for i, sign in enumerate(signs)}
    end, start = number["<|endoftext|>"], number["<|startoftranscript|>"]
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48,
             "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "num_mel_bins": 16}  # fmt: skip
    torch.manual_seed(0)
    config = hf.WhisperConfig(**sizes, **ends, vocab_size=len(signs), begin_suppress_tokens=None)
    model = hf.WhisperForConditionalGeneration(config)
    if logit is not None:  # the embedding of a token is also what reads it out of the last layer
        decoder = model.model.decoder
        decoder.layer_norm.weight.data.zero_()
        decoder.layer_norm.bias.data.zero_()[0] = 1.0
        decoder.embed_tokens.weight.data.zero_()[number["o"], 0] = logit
    model.generation_config.update(**ends, no_timestamps_token_id=number["<|notimestamps|>"])
    model.save_pretrained(folder)
    tokenizer = hf.WhisperTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"extra_special_tokens": list(_SPECIAL)})
    hf.WhisperProcessor(hf.WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
    return str(folder)
