"""Loads an adapter that the trainer wrote with the peft package and compares logits.

    pip install torch transformers peft safetensors
    python train/tests/peft/check.py BASE ADAPTER LOGITS

BASE is a Hugging Face directory (config.json, *.safetensors; no tokenizer is needed), ADAPTER a directory with
adapter_config.json and adapter_model.safetensors, LOGITS a safetensors file of what the trainer computed with
both for one sequence under full attention:

    ids     (tokens,), integers of any width
    logits  (tokens, vocabulary), f32: of the token that follows each

The adapter must be loaded without a warning of peft's, must name every tensor that peft expects and no other,
must change the base's logits, and must give the trainer's within 1e-3 of the largest, with the adapter beside
the base and merged into it. Tried with peft 0.21.2, transformers 5.24.0 and torch 2.15.0.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-3


def base_of(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def load(base, directory):
    """The base with the adapter; peft's warnings are errors."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, directory).eval()
    ours = [w for w in caught if not issubclass(w.category, (FutureWarning, DeprecationWarning))]
    assert not ours, f"peft warns: {ours[0].message}"
    return model


def check_names(model, directory):
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    expected = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    with safe_open(directory / "adapter_model.safetensors", "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    missing, superfluous = sorted(expected.keys() - found), sorted(found.keys() - expected)
    assert not missing, f"{len(missing)} tensors are missing, {missing[0]} the first"
    assert not superfluous, f"peft ignores {len(superfluous)} tensors, {superfluous[0]} the first"
    different = [name for name in expected if expected[name] != found[name]]
    assert not different, f"{different[0]} is {found[different[0]]}, peft expects {expected[different[0]]}"


def check_config(directory):
    config = PeftConfig.from_pretrained(directory)
    assert config.peft_type == "LORA", config.peft_type
    # peft leaves these out silently, and the model is another one.
    for key in ["target_modules", "trainable_token_indices", "base_model_name_or_path"]:
        assert getattr(config, key), f"adapter_config.json has no {key}"


def main():
    parser = argparse.ArgumentParser(description="compares an adapter's logits in peft with the trainer's")
    for name in ["base", "adapter", "logits"]:
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    sample = load_file(arguments.logits)
    ids, ours = sample["ids"].long()[None], sample["logits"]

    check_config(arguments.adapter)
    with torch.no_grad():
        base = base_of(arguments.base)
        without = base(ids).logits[0]
        model = load(base, arguments.adapter)
        check_names(model, arguments.adapter)
        beside = model(ids).logits[0]
        merged = model.merge_and_unload()(ids).logits[0]
    scale = beside.abs().max().item()
    assert ours.shape == beside.shape, f"logits are {tuple(ours.shape)}, peft's {tuple(beside.shape)}"
    assert (beside - without).abs().max() > 10 * TOLERANCE * scale, "the adapter changes nothing"
    worst = max((ours - theirs).abs().max().item() for theirs in (beside, merged)) / scale
    print(f"logits differ by at most {worst:.1e} of the largest, {scale:.3f}, over {ids.shape[1]} tokens")
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
