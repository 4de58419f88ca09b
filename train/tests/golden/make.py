"""Writes the golden files of the trainer's tests: losses and gradients of tiny models, with PyTorch.

    pip install torch transformers safetensors numpy
    python train/tests/golden/make.py

Made with torch 2.15.0, transformers 5.24.0, safetensors 0.8.0 and numpy 2.4.6. Weights are drawn, rounded to
f32, and everything after that is computed in float64 by `reference.py`, which is written from the formulas
and knows nothing of the trainer; results are rounded to f32. The states of every segment are compared with
those of transformers' own models, which are given what a segment sees as one sequence, with position ids and
a mask.

`batch.json`, the same for all models, is what a trainer's batch looks like:

    {"lambda_g": 0.7, "lambda_r": 0.5, "temperature": 0.1,
     "queue": [{"key": 9, "vector": [48 numbers]}, …],
     "packs": [{"segments": [{"ids": […], "position": 0, "sees": [{"segment": 0, "position": 5}, …]}, …],
                "predict":  [{"at": {"segment": 1, "offset": 4}, "id": 7}, …],
                "queries":  [{"at": {…}, "positives": [3], "negatives": [5, 6]}, …],
                "passages": [{"at": {…}, "key": 3}, …]}, …]}

A token sees the tokens of its own segment up to itself and all tokens of the segments that its own one sees,
and nothing else. Queries and keys of a segment are rotated (Su et al. 2021, halves as in transformers) to its
`position` + offset; the keys of a segment that is seen are rotated to the position given there + offset
instead. Positions are those of a passage's landing place, so a shared passage block has several.

Losses, over the batch:
    ce        the mean over all `predict` of -log softmax(logits at `at`)[id]
    info_nce  (van den Oord et al. 2018) the mean over all queries of -log softmax(cosines / temperature)[own].
              Candidates are the passages of all packs in order, then those of the queue (of length 1) whose
              key no pack has. `own` is the first candidate with the key positives[0]; other candidates whose
              key is among `positives` are left out.
    bpr       (Rendle et al. 2009) the mean over all queries of the mean over the candidates whose key is among
              the query's `negatives` of -log sigmoid(cosine with own - cosine with the candidate)
Cosines are those of states after the final norm. A step's loss is lambda_g · ce + lambda_r · contrastive.

For each model (`llama`, `qwen2` with biases and a head of its own, `qwen3` with norms of queries and keys):
    config.json, model.safetensors    the base, as transformers writes it
    adapter/                          LoRA on all linear layers (rank 4, alpha 8) and the rows of four control
                                      tokens, as peft writes them: the rows replace the base's
    losses.json                       {"full": {"ce", "info_nce", "bpr"}, "lora": {…}}, not weighted
    full.safetensors                  the base without the adapter, everything is learnt: the gradient of
                                      lambda_g · ce + lambda_r · info_nce by each tensor of model.safetensors,
                                      under its name; and `states.N`, the states after the final norm of pack
                                      N's tokens, segment after segment
    lora.safetensors                  with the adapter, only it is learnt: the gradient by each tensor of
                                      the adapter, under `ce/NAME`, `info_nce/NAME` and, for
                                      llama, `bpr/NAME`, of each loss alone, without its lambda
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from reference import EMBEDDING, HEAD_TABLE, losses_of

HERE = Path(__file__).parent
HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY = 48, 2, 4, 2, 97
FEED_FORWARD = {"llama": 96, "qwen2": 64, "qwen3": 64}
HEAD = HIDDEN // HEADS
RANK, ALPHA = 4, 8
QUERY, PASSAGE, OPEN, CLOSE = 7, 9, 5, 4
CONTROL = [QUERY, PASSAGE, OPEN, CLOSE]


def linear_layers(config):
    """(outputs, inputs) of a layer's matrices."""
    queries, keys, inner = HEADS * HEAD, KV_HEADS * HEAD, config["intermediate_size"]
    return {
        "self_attn.q_proj": (queries, HIDDEN),
        "self_attn.k_proj": (keys, HIDDEN),
        "self_attn.v_proj": (keys, HIDDEN),
        "self_attn.o_proj": (HIDDEN, queries),
        "mlp.gate_proj": (inner, HIDDEN),
        "mlp.up_proj": (inner, HIDDEN),
        "mlp.down_proj": (HIDDEN, inner),
    }


def config_of(family):
    config = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD[family],
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": family != "qwen2",
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    if family == "qwen2":
        # Its head width always follows from the others.
        del config["head_dim"]
    if family == "qwen3":
        config["attention_bias"] = False
    return config


# --- What is forwarded -----------------------------------------------------------------------------------


class PackWriter:
    """A pack, segment by segment; tokens without a meaning are drawn."""

    def __init__(self, random):
        self.random = random
        self.pack = {"segments": [], "predict": [], "queries": [], "passages": []}

    def words(self, count):
        return [int(id) for id in self.random.integers(16, VOCABULARY, count)]

    def segment(self, ids, position, sees=()):
        sees = [{"segment": segment, "position": start} for segment, start in sees]
        self.pack["segments"].append({"ids": ids, "position": position, "sees": sees})
        return len(self.pack["segments"]) - 1

    def block(self, length, position, key):
        """A passage block: its last token's state is the passage's embedding."""
        block = self.segment([OPEN] + self.words(length - 2) + [PASSAGE], position)
        self.passage(block, length - 1, key)
        return block

    def passage(self, segment, offset, key):
        self.pack["passages"].append({"at": {"segment": segment, "offset": offset}, "key": key})

    def query(self, segment, offset, positives, negatives=()):
        at = {"segment": segment, "offset": offset}
        self.pack["queries"].append({"at": at, "positives": positives, "negatives": list(negatives)})

    def predict(self, segment, offsets):
        """The next tokens at these offsets are learnt."""
        ids = self.pack["segments"][segment]["ids"]
        for offset in offsets:
            following = ids[offset + 1] if offset + 1 < len(ids) else 0
            at = {"segment": segment, "offset": offset}
            self.pack["predict"].append({"at": at, "id": following})


def shared_block(random):
    """Three questions to one passage, whose block lands at another position behind each."""
    pack = PackWriter(random)
    block = pack.block(11, 0, key=3)
    other = pack.block(6, 2, key=4)
    for length, negatives in [(5, [4]), (8, [4, 9]), (3, [6])]:
        prompt = pack.segment(pack.words(length) + [QUERY], 0)
        landing = length + 1
        answer = pack.segment(
            [CLOSE] + pack.words(4), landing + 11, [(prompt, 0), (block, landing)]
        )
        # The query token is learnt, what follows it is not; nor does anybody write what stands in a block.
        pack.predict(prompt, [length - 1])
        pack.predict(answer, range(0, 5))
        pack.query(prompt, length, [3], negatives)
    assert other == 1
    return pack.pack


def history(random):
    """Two turns with a retrieval each; the second one sees all of the first."""
    pack = PackWriter(random)
    first = pack.segment(pack.words(6) + [QUERY], 0)
    block = pack.block(9, 7, key=5)
    second = pack.segment([CLOSE] + pack.words(9) + [QUERY], 16, [(first, 0), (block, 7)])
    other = pack.block(7, 27, key=6)
    third = pack.segment(
        [CLOSE] + pack.words(3), 34, [(first, 0), (block, 7), (second, 16), (other, 27)]
    )
    pack.predict(first, [5])
    pack.predict(second, [0, 1, 2, 9])
    pack.predict(third, range(0, 4))
    pack.query(first, 6, [5], [6, 4])
    # Key 3 is right as well: it does not count against key 6.
    pack.query(second, 10, [6, 3], [5])
    return pack.pack


def full(random):
    """Full attention: the passage is embedded by itself and read as a part of the conversation."""
    pack = PackWriter(random)
    # Key 3 again: queries are compared with the first one, for those of that key this one is left out.
    alone = pack.segment([OPEN] + pack.words(5) + [PASSAGE], 0)
    words = pack.pack["segments"][alone]["ids"][1:-1]
    whole = pack.segment(pack.words(6) + [QUERY, OPEN] + words + [CLOSE] + pack.words(5), 0)
    pack.passage(alone, 6, key=3)
    pack.query(whole, 6, [3], [5, 9])
    pack.predict(whole, [5, *range(13, 19)])
    return pack.pack


def batch_of(seed):
    random = np.random.default_rng(seed)

    def vector():
        drawn = random.standard_normal(HIDDEN)
        return (drawn / np.linalg.norm(drawn)).astype(np.float32).tolist()

    return {
        "lambda_g": 0.7,
        "lambda_r": 0.5,
        "temperature": 0.1,
        "queue": [{"key": key, "vector": vector()} for key in [9, 10, 3, 11]],
        "packs": [shared_block(random), history(random), full(random)],
    }


# --- Weights ---------------------------------------------------------------------------------------------


def draw(random, shape, scale, mean=0.0):
    """f32 numbers, as float64."""
    values = (mean + scale * random.standard_normal(shape)).astype(np.float32)
    return torch.from_numpy(values).double()


def weights_of(config, seed):
    random = np.random.default_rng(seed)
    family = config["model_type"]
    weights = {f"{EMBEDDING}.weight": draw(random, (VOCABULARY, HIDDEN), 0.3)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ["input_layernorm", "post_attention_layernorm"]:
            weights[f"{prefix}.{norm}.weight"] = draw(random, HIDDEN, 0.2, 1.0)
        for name, (outputs, inputs) in linear_layers(config).items():
            sharp = 1.5 if name[-6:] in ["q_proj", "k_proj"] else 1.0
            weights[f"{prefix}.{name}.weight"] = draw(random, (outputs, inputs), sharp * inputs**-0.5)
            if family == "qwen2" and name[-6:] in ["q_proj", "k_proj", "v_proj"]:
                weights[f"{prefix}.{name}.bias"] = draw(random, outputs, 0.3)
        if family == "qwen3":
            for norm in ["q_norm", "k_norm"]:
                weights[f"{prefix}.self_attn.{norm}.weight"] = draw(random, HEAD, 0.2, 1.0)
    weights["model.norm.weight"] = draw(random, HIDDEN, 0.2, 1.0)
    if not config["tie_word_embeddings"]:
        weights[f"{HEAD_TABLE}.weight"] = draw(random, (VOCABULARY, HIDDEN), 0.3)
    return weights


def adapter_of(weights, config, seed):
    """LoRA whose B is not zero, as after some steps, under peft's names."""
    random = np.random.default_rng(seed)
    adapter = {}
    for table in [EMBEDDING] if config["tie_word_embeddings"] else [EMBEDDING, HEAD_TABLE]:
        rows = weights[f"{table}.weight"][CONTROL] + draw(random, (len(CONTROL), HIDDEN), 0.1)
        name = f"base_model.model.{table}.token_adapter.trainable_tokens_delta"
        adapter[name] = rows.float().double()
    for layer in range(LAYERS):
        for name, (outputs, inputs) in linear_layers(config).items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            adapter[f"{prefix}.lora_A.weight"] = draw(random, (RANK, inputs), inputs**-0.5)
            adapter[f"{prefix}.lora_B.weight"] = draw(random, (outputs, RANK), 0.1)
    return adapter


def adapted(weights, adapter):
    """The weights that a base and an adapter are together."""
    merged = dict(weights)
    for name in weights:
        path = f"base_model.model.{name.removesuffix('.weight')}"
        rows = adapter.get(f"{path}.token_adapter.trainable_tokens_delta")
        if rows is not None:
            merged[name] = weights[name].index_copy(0, torch.tensor(CONTROL), rows)
        elif name.endswith(".weight") and f"{path}.lora_A.weight" in adapter:
            a, b = adapter[f"{path}.lora_A.weight"], adapter[f"{path}.lora_B.weight"]
            merged[name] = weights[name] + ALPHA / RANK * b @ a
    return merged


# --- transformers says the same --------------------------------------------------------------------------


def check(weights, config, batch, states, directory):
    """Compares each segment's states with transformers', which gets what it sees in one sequence."""
    config = AutoConfig.from_pretrained(directory, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).double().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(config.tie_word_embeddings and "lm_head" in name for name in missing)
    worst = 0.0
    for pack, ours in zip(batch["packs"], states):
        segments = pack["segments"]
        for number, segment in enumerate(segments):
            parts = [(seen["segment"], seen["position"]) for seen in segment["sees"]]
            parts.append((number, segment["position"]))
            owner, ids, positions = [], [], []
            for part, start in parts:
                length = len(segments[part]["ids"])
                owner += [part] * length
                ids += segments[part]["ids"]
                positions += range(start, start + length)
            sees = [{part} | {seen["segment"] for seen in segments[part]["sees"]} for part, _ in parts]
            visible_to = dict(zip([part for part, _ in parts], sees))
            size = len(ids)
            visible = torch.tensor(
                [[k <= q and owner[k] in visible_to[owner[q]] for k in range(size)] for q in range(size)]
            )
            mask = torch.zeros(1, 1, size, size, dtype=torch.float64)
            mask.masked_fill_(~visible, torch.finfo(torch.float64).min)
            with torch.no_grad():
                theirs = model.model(
                    torch.tensor([ids]),
                    position_ids=torch.tensor([positions]),
                    attention_mask=mask,
                    use_cache=False,
                ).last_hidden_state[0, -len(segment["ids"]) :]
            worst = max(worst, (theirs - ours[number]).abs().max().item())
    # transformers makes cosines and sines in f32.
    assert worst < 1e-5, worst
    return worst


# --- Files -----------------------------------------------------------------------------------------------


def save(tensors, path):
    save_file({name: t.detach().float().contiguous() for name, t in tensors.items()}, path)


def gradients(loss, tensors):
    found = torch.autograd.grad(loss, tensors.values(), retain_graph=True, materialize_grads=True)
    return dict(zip(tensors, found))


def adapter_config(config, name):
    rows = {"embed_tokens": CONTROL} | ({} if config["tie_word_embeddings"] else {"lm_head": CONTROL})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [name.split(".")[1] for name in linear_layers(config)],
        "trainable_token_indices": rows,
        "use_dora": False,
        "use_rslora": False,
    }


def learnable(tensors):
    return {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}


def main():
    batch = batch_of(1)
    (HERE / "batch.json").write_text(json.dumps(batch) + "\n")
    for seed, family in enumerate(["llama", "qwen2", "qwen3"], 2):
        directory = HERE / family
        (directory / "adapter").mkdir(parents=True, exist_ok=True)
        config = config_of(family)
        base = weights_of(config, seed)
        adapter = adapter_of(base, config, seed + 10)
        write = lambda name, value: (directory / name).write_text(json.dumps(value, indent=2) + "\n")
        write("config.json", config)
        write("adapter/adapter_config.json", adapter_config(config, family))
        save(base, directory / "model.safetensors")
        save(adapter, directory / "adapter/adapter_model.safetensors")

        weights = learnable(base)
        losses, states = losses_of(weights, config, batch)
        total = batch["lambda_g"] * losses["ce"] + batch["lambda_r"] * losses["info_nce"]
        result = gradients(total, weights)
        result |= {f"states.{number}": torch.cat(pack) for number, pack in enumerate(states)}
        save(result, directory / "full.safetensors")
        worst = check(base, config, batch, states, directory)

        weights = learnable(adapter)
        merged = adapted(base, weights)
        lora_losses, states = losses_of(merged, config, batch)
        result = {}
        for name in ["ce", "info_nce"] + ["bpr"] * (family == "llama"):
            result |= {f"{name}/{key}": g for key, g in gradients(lora_losses[name], weights).items()}
        save(result, directory / "lora.safetensors")
        merged = {name: weight.detach() for name, weight in merged.items()}
        worst = max(worst, check(merged, config, batch, states, directory))

        numbers = lambda losses: {name: loss.item() for name, loss in losses.items()}
        write("losses.json", {"full": numbers(losses), "lora": numbers(lora_losses)})
        print(family, numbers(losses), numbers(lora_losses), f"transformers differs by {worst:.1e}")
    total = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
