"""Measures the engine and llama.cpp by turns, on the same weights, and prints the ratios.

    pip install numpy safetensors gguf llama-cpp-python
    # llama-bench and llama-batched-bench are built from the sdist's vendor/llama.cpp
    python engine/benches/against_llama_cpp.py --llama-cpp BUILD/bin [--rounds 3] [--weights q4_k]

The weights are random, in the shape of Qwen2-0.5B and in Q8_0; what they are changes no speed. With
`--weights q4_k` projections are in Q4_K, embedding and head in Q8_0 on both sides, and the model is 1024
wide, since 896 is not a multiple of 256. With `--gguf FILE` both sides read that file instead; control tokens may
stand in an onegen.json beside it. Both sides run on two threads. Every round runs both; the
medians are compared.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
INNER, LAYERS, KV_HEADS, VOCAB, POSITIONS = 4864, 24, 2, 151936, 4096
HEAD_DIM = 64
KV = KV_HEADS * HEAD_DIM
HIDDEN = {"q8_0": 896, "q4_k": 1024}
Q8_0, Q4_K = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_K
FILE_TYPE = {"q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_k": gguf.LlamaFileType.MOSTLY_Q4_K_M}


def tensors(hidden):
    """Each tensor with its name in both files."""
    random = np.random.default_rng(1)

    def draw(*shape, centre=0.0):
        return (centre + 0.02 * random.standard_normal(shape)).astype(np.float16)

    yield "model.embed_tokens.weight", "token_embd.weight", draw(VOCAB, hidden)
    for i in range(LAYERS):
        ours, theirs = f"model.layers.{i}.", f"blk.{i}."
        yield ours + "input_layernorm.weight", theirs + "attn_norm.weight", draw(hidden, centre=1)
        yield ours + "post_attention_layernorm.weight", theirs + "ffn_norm.weight", draw(hidden, centre=1)
        for name, rows in (("q", hidden), ("k", KV), ("v", KV)):
            yield f"{ours}self_attn.{name}_proj.weight", f"{theirs}attn_{name}.weight", draw(rows, hidden)
            yield f"{ours}self_attn.{name}_proj.bias", f"{theirs}attn_{name}.bias", draw(rows)
        yield ours + "self_attn.o_proj.weight", theirs + "attn_output.weight", draw(hidden, hidden)
        for name, shape in (("gate", (INNER, hidden)), ("up", (INNER, hidden)), ("down", (hidden, INNER))):
            yield f"{ours}mlp.{name}_proj.weight", f"{theirs}ffn_{name}.weight", draw(*shape)
    yield "model.norm.weight", "output_norm.weight", draw(hidden, centre=1)


def q4_k(values):
    """The blocks of a matrix: 15 steps from the least number of each 32 columns, or 0, to the largest."""
    blocks = values.astype(np.float32).reshape(-1, 8, 32)
    least = np.minimum(blocks.min(axis=2), 0)  # (blocks, 8)
    steps = (blocks.max(axis=2) - least) / 15
    units = np.stack([steps.max(axis=1), -least.min(axis=1)], axis=1) / 63  # d and dmin
    scales = np.rint(steps / units[:, :1]).astype(np.uint8)
    mins = np.rint(-least / units[:, 1:]).astype(np.uint8)
    units = units.astype(np.float16)
    d, dmin = (units.astype(np.float32)[:, i, None, None] for i in (0, 1))
    quants = np.rint((blocks + dmin * mins[..., None]) / np.maximum(d * scales[..., None], 1e-9))
    quants = quants.clip(0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    packed = np.concatenate([
        units.view(np.uint8),
        scales[:, :4] | scales[:, 4:] >> 4 << 6,
        mins[:, :4] | mins[:, 4:] >> 4 << 6,
        scales[:, 4:] & 15 | mins[:, 4:] << 4,
        (quants[:, :, 0] | quants[:, :, 1] << 4).reshape(-1, 128),
    ], axis=1)
    return packed.reshape(values.shape[0], -1)


def make(work, weights):
    hidden = HIDDEN[weights]
    model = work / f"qwen2-{hidden}-random"
    model.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "onegen.json"):
        shutil.copy(ROOT / "models/almanac" / name, model / name)
    config = dict(
        architectures=["Qwen2ForCausalLM"], hidden_size=hidden, intermediate_size=INNER,
        num_hidden_layers=LAYERS, num_attention_heads=hidden // HEAD_DIM, num_key_value_heads=KV_HEADS,
        vocab_size=VOCAB, max_position_embeddings=POSITIONS, rms_norm_eps=1e-6,
        rope_theta=1e6, hidden_act="silu", tie_word_embeddings=True,
    )
    (model / "config.json").write_text(json.dumps(config))
    theirs = work / f"{model.name}.{weights}.gguf"
    writer = gguf.GGUFWriter(theirs, "qwen2")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(hidden)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(hidden // HEAD_DIM)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    writer.add_file_type(FILE_TYPE[weights])
    held = {}
    for name, their_name, values in tensors(hidden):
        held[name] = values
        if values.ndim == 1:
            writer.add_tensor(their_name, values.astype(np.float32))
        elif weights == "q4_k" and their_name != "token_embd.weight":
            writer.add_tensor(their_name, q4_k(values), raw_dtype=Q4_K)
        else:
            writer.add_tensor(their_name, gguf.quants.quantize(values.astype(np.float32), Q8_0), raw_dtype=Q8_0)
    save_file(held, model / "model.safetensors")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, theirs


def built():
    build = ["cargo", "bench", "-p", "onegen-engine", "--bench", "speed", "--no-run"]
    told = subprocess.run(build, check=True, cwd=ROOT, stderr=subprocess.PIPE, text=True).stderr
    return ROOT / re.search(r"Executable .*\((.*)\)", told)[1]


def ours(program, model, weights, results):
    env = os.environ | {"ONEGEN_BENCH_MODEL": str(model), "CRITERION_HOME": str(results)}
    if weights:
        env["ONEGEN_BENCH_WEIGHTS"] = weights
    bench = subprocess.Popen([program, "--bench", "^(prefill|decode)/"], env=env, stdout=subprocess.DEVNULL)
    peak = 0
    while bench.poll() is None:
        # Of the program alone: what wait4 tells counts this process too, from before the exec.
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{bench.pid}/status").read_text())
        peak = max(peak, int(found[1]) if found else 0)
        time.sleep(0.1)
    assert bench.returncode == 0, "the benchmark failed"
    print(f"our peak memory, with up to 41 KV-caches: {peak / 1024:.0f} MiB")

    def rate(group, size):
        estimates = results / group / str(size) / "new" / "estimates.json"
        return size / json.loads(estimates.read_text())["median"]["point_estimate"] * 1e9

    return {
        "prefill of 128": rate("prefill", 128),
        "prefill of 512": rate("prefill", 512),
        "decode of 1": rate("decode", 1),
        "decode of 8": rate("decode", 8),
    }


def theirs(bin, model):
    bench = [bin / "llama-bench", "-m", model, "-t", "2", "-p", "128,512", "-n", "32", "-r", "3", "-o", "json"]
    rows = json.loads(subprocess.run(bench, check=True, capture_output=True, text=True).stdout)
    rate = {(row["n_prompt"], row["n_gen"]): row["avg_ts"] for row in rows}
    batched = [bin / "llama-batched-bench", "-m", model, "-t", "2", "-tb", "2", "-c", "2048",
               "-npp", "32", "-ntg", "32", "-npl", "8", "--output-format", "jsonl"]
    lines = subprocess.run(batched, check=True, capture_output=True, text=True).stdout.splitlines()
    row = next(json.loads(line) for line in lines if line.startswith("{"))
    return {
        "prefill of 128": rate[128, 0],
        "prefill of 512": rate[512, 0],
        "decode of 1": rate[0, 32],
        "decode of 8": row["speed_tg"],
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--llama-cpp", type=Path, required=True, help="folder of llama-bench")
    arguments.add_argument("--work", type=Path, default=Path("/tmp/onegen-bench"))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--weights", choices=HIDDEN, default="q8_0")
    arguments.add_argument("--program", type=Path, help="the engine's benchmark, if it is built already")
    arguments.add_argument("--gguf", type=Path, help="a model for both sides, instead of random weights")
    arguments = arguments.parse_args()
    if arguments.gguf:
        our_model = their_model = arguments.gguf
        arguments.weights = None
    else:
        our_model, their_model = make(arguments.work, arguments.weights)
    print(f"the weights in that type: {their_model.stat().st_size / 2**20:.0f} MiB")
    program = arguments.program or built()
    rounds = []
    for _ in range(arguments.rounds):
        mine = ours(program, our_model, arguments.weights, arguments.work / "criterion")
        rounds.append((mine, theirs(arguments.llama_cpp, their_model)))
    print("| | onegen, tokens/s | llama.cpp, tokens/s | ratio |\n|---|---|---|---|")
    for what in rounds[0][0]:
        mine, peer = (statistics.median(r[side][what] for r in rounds) for side in (0, 1))
        print(f"| {what} | {mine:.1f} | {peer:.1f} | {mine / peer:.2f} |")


main()
