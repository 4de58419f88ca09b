#!/usr/bin/env bash
# peft 0.21.2 (with transformers 5.24.0 and torch 2.15.0):
#  1. An adapter's `…token_adapter.trainable_tokens_delta` holds the tokens' new rows, which replace the base's;
#     it is no difference to them, whatever its name says. Whoever adds it to the base's rows gets another model.
#  2. An adapter_config.json without `target_modules` loads: for Llama only q_proj and v_proj are taken, the other
#     LoRA matrices in the file are left out.
#  3. One without `trainable_token_indices` loads: the rows in the file are left out.
# Of 2 and 3 there is a warning at most, and the model gives other logits than the one that was saved.
# Seen on 2026-11-29. onegen reads the rows as rows and refuses an adapter whose tensors its configuration does not
# account for (engine/src/model/adapter).
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet 'peft==0.21.2' 'transformers==5.24.0' 'torch==2.15.0' 'safetensors==0.8.0' 'numpy==2.4.6'
cd "$scratch"
HF_HUB_OFFLINE=1 "$scratch/venv/bin/python" - <<'PY'
import json, shutil, warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
torch.manual_seed(1)
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, tie_word_embeddings=True,
)
LlamaForCausalLM(config).save_pretrained("base")
base = lambda: LlamaForCausalLM.from_pretrained("base")
modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
lora = LoraConfig(r=4, lora_alpha=8, target_modules=modules, trainable_token_indices={"embed_tokens": [5, 3]})
model = get_peft_model(base(), lora)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn_like(parameter))
ids = torch.tensor([[1, 5, 9, 3]])
logits = model(ids).logits.detach()
model.save_pretrained("adapter")

tensors = load_file("adapter/adapter_model.safetensors")
name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
stored, old = tensors[name], base().get_input_embeddings().weight.detach()[[5, 3]]
used = model.get_input_embeddings()(torch.tensor([5, 3])).detach()
print("rows in use are what is stored:", torch.allclose(used, stored))
print("rows in use are the base's plus what is stored:", torch.allclose(used, old + stored))
assert torch.allclose(used, stored) and not torch.allclose(used, old + stored)


def without(key):
    shutil.copytree("adapter", f"without_{key}")
    path = f"without_{key}/adapter_config.json"
    config = json.load(open(path))
    del config[key]
    json.dump(config, open(path, "w"))
    return PeftModel.from_pretrained(base(), f"without_{key}")


whole = PeftModel.from_pretrained(base(), "adapter")
assert torch.allclose(whole(ids).logits, logits, atol=1e-5)
part = without("target_modules")
taken = sorted({n.split(".lora_")[0].split(".")[-1] for n, _ in part.named_parameters() if ".lora_" in n})
print("without target_modules:", taken, "largest difference:", (part(ids).logits - logits).abs().max().item())
assert taken == ["q_proj", "v_proj"] and not torch.allclose(part(ids).logits, logits, atol=1e-3)
part = without("trainable_token_indices")
print("without trainable_token_indices, largest difference:", (part(ids).logits - logits).abs().max().item())
assert not torch.allclose(part(ids).logits, logits, atol=1e-3)
PY
