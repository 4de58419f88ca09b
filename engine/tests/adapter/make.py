"""Writes the golden files of engine/tests/adapter.rs with Hugging Face transformers and peft.

    pip install torch transformers peft safetensors
    python engine/tests/adapter/make.py

For each base a directory: `base` with random weights kept in bf16, `adapter` as peft saves it, with random
weights, and golden.safetensors with `ids` (sequence), `positions` (asked), `logits` (asked, vocab) and
`hidden` (asked, hidden_size, after the final norm) of both together, computed in f32. The same versions give
the same files.
"""

import json
import shutil
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
LENGTH = 40
POSITIONS = [0, 1, 9, 23, 39]

SHAPE = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=320,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    bos_token_id=None,
    eos_token_id=None,
)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASES = {
    # All projections and some rows of an embedding that is the head, too, as SmolLM2's is.
    "llama": (
        dict(model_type="llama", tie_word_embeddings=True),
        dict(r=4, lora_alpha=8, target_modules=PROJECTIONS, trainable_token_indices={"embed_tokens": [9, 5, 17]}),
    ),
    # Some projections of one layer beside biases, and rows of embedding and head.
    "qwen2": (
        dict(model_type="qwen2", tie_word_embeddings=False, use_sliding_window=False),
        dict(
            r=3,
            lora_alpha=4,
            target_modules=["q_proj", "v_proj", "down_proj"],
            layers_to_transform=[1],
            trainable_token_indices={"embed_tokens": [5, 300], "lm_head": [17]},
        ),
    ),
}


def randomise(model, seed, wanted):
    """Weights large enough for every part to matter: peft's own leave an adapter without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if not wanted(name):
                continue
            centre, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.25)
            if "embed_tokens" in name:
                spread = 1.0
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_((centre + spread * noise).to(torch.bfloat16).float())


def write(name, base, adapter):
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    settings = {**SHAPE, **base}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    randomise(model, 30, lambda _: True)
    model.to(torch.bfloat16).save_pretrained(directory / "base")
    (directory / "base/generation_config.json").unlink(missing_ok=True)

    adapted = get_peft_model(model.float(), LoraConfig(**adapter))
    randomise(adapted, 31, lambda name: "lora_" in name or "trainable_tokens_delta" in name)
    adapted.save_pretrained(directory / "adapter")
    (directory / "adapter/README.md").unlink()
    # peft keeps the modules in a set, which it writes in any order.
    written = directory / "adapter/adapter_config.json"
    config = json.loads(written.read_text())
    config["target_modules"].sort()
    written.write_text(json.dumps(config, indent=2) + "\n")

    # As anybody would load it.
    plain = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32, attn_implementation="eager")
    loaded = PeftModel.from_pretrained(plain, directory / "adapter").eval()
    ids = torch.randint(0, SHAPE["vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(32))
    # The tokens with rows of their own are read, too.
    ids[0, :4] = torch.tensor([5, 17, 9, 300])
    with torch.no_grad():
        out = loaded(ids, output_hidden_states=True)
        with loaded.disable_adapter():
            without = loaded(ids)
    assert (out.logits - without.logits).abs().max() > 1, "the adapter does next to nothing"
    golden = {
        "ids": ids[0].to(torch.int64),
        "positions": torch.tensor(POSITIONS, dtype=torch.int64),
        "logits": out.logits[0, POSITIONS].contiguous(),
        "hidden": out.hidden_states[-1][0, POSITIONS].contiguous(),
    }
    save_file(golden, directory / "golden.safetensors")
    print(name, f"transformers {transformers.__version__}, peft {peft.__version__}")


for name, (base, adapter) in BASES.items():
    write(name, base, adapter)
