"""Looks at what `onegen-train merge` and `export` wrote of a real model, with transformers and the gguf package.

    ONEGEN_BASE=… ONEGEN_ADAPTER=models/smol ONEGEN_OUT=DIR cargo test --release -p onegen-train --test convert -- --ignored
    python3 train/tests/convert/check.py DIR
"""

import json
import pathlib
import sys

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = pathlib.Path(sys.argv[1])
engine = json.loads((directory / "engine.json").read_text())

tokenizer = AutoTokenizer.from_pretrained(directory / "merged")
assert tokenizer(engine["text"], add_special_tokens=False)["input_ids"] == engine["plain"], "other ids"
messages = [{"role": "user", "content": engine["text"]}]
chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
assert ids == engine["ids"], "another chat template"

model = AutoModelForCausalLM.from_pretrained(directory / "merged", dtype=torch.float32)
with torch.no_grad():
    logits = model(torch.tensor([engine["ids"]])).logits[0, -1]
apart = (logits - torch.tensor(engine["logits"])).abs().max().item()
print(f"transformers' logits are at most {apart:.2e} apart from the engine's")
assert apart < 1e-2

for name in ["f32.gguf", "kept.gguf"]:
    reader = gguf.GGUFReader(directory / "gguf" / name)
    types = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    tokens = reader.fields["tokenizer.ggml.tokens"]
    print(f"{name}: {len(reader.tensors)} tensors of {', '.join(types)}, {len(tokens.data)} tokens")
