"""Llama-family decoders among the segments of a pack, and the losses, in PyTorch from the formulas.

`make.py` says what segments, packs and losses are.
"""

import torch
import torch.nn.functional as F

EMBEDDING, HEAD_TABLE = "model.embed_tokens", "lm_head"


def rms_norm(x, weight, epsilon):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x, start, theta):
    """Rotates (heads, tokens, width) to the positions from `start` on."""
    width = x.shape[-1]
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(start, start + x.shape[1], dtype=torch.float64)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def attend(segments, queries, keys, values, theta):
    """What each segment's tokens attend to; all arguments are lists with (heads, tokens, width) a segment."""
    group = len(queries[0]) // len(keys[0])
    attended = []
    for number, segment in enumerate(segments):
        sources = [(seen["segment"], seen["position"]) for seen in segment["sees"]]
        sources.append((number, segment["position"]))
        k = torch.cat([rotate(keys[source], start, theta) for source, start in sources], 1)
        v = torch.cat([values[source] for source, _ in sources], 1)
        q = rotate(queries[number], segment["position"], theta)
        scores = q @ k.repeat_interleave(group, 0).transpose(1, 2) / q.shape[-1] ** 0.5
        tokens, before = q.shape[1], k.shape[1] - q.shape[1]
        visible = torch.ones(tokens, before + tokens, dtype=torch.bool).tril(before)
        scores = scores.masked_fill(~visible, -torch.inf)
        attended.append(scores.softmax(-1) @ v.repeat_interleave(group, 0))
    return attended


def forward(weights, config, pack):
    """The states after the final norm, a matrix a segment."""
    segments, epsilon = pack["segments"], config["rms_norm_eps"]
    width = config["hidden_size"] // config["num_attention_heads"]
    lengths = [len(segment["ids"]) for segment in segments]
    ids = torch.tensor([id for segment in segments for id in segment["ids"]])
    x = weights[f"{EMBEDDING}.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"

        def linear(name, x):
            return F.linear(x, weights[f"{prefix}.{name}.weight"], weights.get(f"{prefix}.{name}.bias"))

        def heads(name, x, norm=None):
            x = linear(name, x).unflatten(-1, (-1, width))
            norm = weights.get(f"{prefix}.self_attn.{norm}.weight")
            x = x if norm is None else rms_norm(x, norm, epsilon)
            return x.transpose(0, 1).split(lengths, 1)

        normed = rms_norm(x, weights[f"{prefix}.input_layernorm.weight"], epsilon)
        attended = attend(
            segments,
            heads("self_attn.q_proj", normed, "q_norm"),
            heads("self_attn.k_proj", normed, "k_norm"),
            heads("self_attn.v_proj", normed),
            config["rope_theta"],
        )
        x = x + linear("self_attn.o_proj", torch.cat(attended, 1).transpose(0, 1).flatten(1))
        normed = rms_norm(x, weights[f"{prefix}.post_attention_layernorm.weight"], epsilon)
        gated = F.silu(linear("mlp.gate_proj", normed)) * linear("mlp.up_proj", normed)
        x = x + linear("mlp.down_proj", gated)
    return rms_norm(x, weights["model.norm.weight"], epsilon).split(lengths)


def losses_of(weights, config, batch):
    """The three losses of a batch, and the states of its packs' segments."""
    states = [forward(weights, config, pack) for pack in batch["packs"]]
    at = lambda pack, place: states[pack][place["segment"]][place["offset"]]
    each = lambda what: [(n, entry) for n, pack in enumerate(batch["packs"]) for entry in pack[what]]

    table = EMBEDDING if config["tie_word_embeddings"] else HEAD_TABLE
    written = torch.stack([at(pack, target["at"]) for pack, target in each("predict")])
    targets = torch.tensor([target["id"] for _, target in each("predict")])
    ce = F.cross_entropy(written @ weights[f"{table}.weight"].T, targets)

    passages = [at(pack, passage["at"]) for pack, passage in each("passages")]
    keys = [passage["key"] for _, passage in each("passages")]
    queue = [entry for entry in batch["queue"] if entry["key"] not in keys]
    vectors = torch.tensor([entry["vector"] for entry in queue], dtype=torch.float64)
    candidates = torch.cat([F.normalize(torch.stack(passages), dim=-1), vectors])
    keys += [entry["key"] for entry in queue]
    info_nce, bpr = [], []
    for pack, query in each("queries"):
        cosines = candidates @ F.normalize(at(pack, query["at"]), dim=-1)
        own = keys.index(query["positives"][0])
        kept = [n for n, key in enumerate(keys) if n == own or key not in query["positives"]]
        scores = cosines / batch["temperature"]
        info_nce.append(scores[kept].logsumexp(0) - scores[own])
        wrong = [n for n, key in enumerate(keys) if key in query["negatives"]]
        bpr.append(-F.logsigmoid(cosines[own] - cosines[wrong]).mean())
    losses = {"ce": ce, "info_nce": torch.stack(info_nce).mean(), "bpr": torch.stack(bpr).mean()}
    return losses, states
