"""Writes the golden files of engine/tests/parity.rs with Hugging Face transformers.

    pip install torch transformers safetensors
    python engine/tests/parity/make.py

For each family a directory: config.json, random weights kept in bf16, and golden.safetensors with
`ids` (sequence), `positions` (asked), `logits` (asked, vocab) and `hidden` (asked, hidden_size, after
the final norm), computed in f32. The same versions give the same files.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
LENGTH = 120
POSITIONS = [0, 1, 7, 23, 24, 63, 64, 90, 119]

SHAPE = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=320,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
)
FAMILIES = {
    "llama2": dict(model_type="llama", num_key_value_heads=4),
    "llama3.1": dict(
        model_type="llama",
        rope_theta=500000.0,
        rope_scaling=dict(
            rope_type="llama3",
            rope_theta=500000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "mistral": dict(model_type="mistral", sliding_window=24, head_dim=8),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True, use_sliding_window=False),
    "qwen3": dict(model_type="qwen3", tie_word_embeddings=True, head_dim=16),
}


def randomise(model):
    """Weights large enough for every part to matter; transformers' own leave norms at one."""
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            centre, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.25)
            if "embed_tokens" in name:
                spread = 1.0
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_((centre + spread * noise).to(torch.bfloat16).float())


def write(family, settings):
    directory = HERE / family
    shutil.rmtree(directory, ignore_errors=True)
    settings = {**SHAPE, **settings}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomise(model)

    generator = torch.Generator().manual_seed(21)
    ids = torch.randint(0, SHAPE["vocab_size"], (1, LENGTH), generator=generator)
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    hidden = out.hidden_states[-1]
    assert torch.equal(model.lm_head(hidden), out.logits), "the last state is not the head's input"
    golden = {
        "ids": ids[0].to(torch.int64),
        "positions": torch.tensor(POSITIONS, dtype=torch.int64),
        "logits": out.logits[0, POSITIONS].contiguous(),
        "hidden": hidden[0, POSITIONS].contiguous(),
    }
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    save_file(golden, directory / "golden.safetensors")
    written = json.loads((directory / "config.json").read_text())
    print(family, written["architectures"], f"transformers {transformers.__version__}")


for family, settings in FAMILIES.items():
    write(family, settings)
