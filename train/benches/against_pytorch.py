"""Compares a training step of onegen-train with PyTorch's: LoRA of rank 32, frozen base, f32.

    pip install torch transformers peft gguf safetensors
    python train/benches/against_pytorch.py --base SmolLM2-135M-Instruct.Q4_1.gguf
    python train/benches/against_pytorch.py --base … --batch FILE --only pytorch

Both sides get the same base (a GGUF file or a Hugging Face directory), the same batch and the same number of
threads, and take turns, since the machine may be busy with other things: medians and the ratios of neighbours
are printed. Ours is `onegen-train bench-step --base FILE --batch FILE --steps N --threads N`, which prints one
line {"tokens": …, "seconds": …, "peak_rss_mib": …} for N steps after one to warm up. A step is forward,
losses, backward, clipping and AdamW. Memory is the largest resident set after the weights were loaded.

A batch is what `train/tests/golden/make.py` describes. Without --batch one is made: twelve questions in seven
packs, with the lengths of search questions, random ids and a queue of 512 passages; --write keeps it.

In PyTorch a pack becomes one sequence with position ids and an additive mask. A passage block that several
branches read stands at one position for all of them: positions are relative, so branches are moved until it
does. Logits are computed at targets only. Tried there, see `--lora`, `--attention`, `--rows` and `--compile`.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANK, ALPHA = 32, 32
CONTROL = {"query": 7, "passage": 9, "open": 5, "close": 4}
VOCABULARY, HIDDEN = 49152, 576
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


# --- The batch -------------------------------------------------------------------------------------------


def made_batch():
    """Twelve questions: two passages with three each, four with one, and two turns of one conversation."""
    rng = random.Random(1)
    words = lambda count: [rng.randrange(17, VOCABULARY) for _ in range(count)]
    length = lambda median, spread: max(2, round(median * math.exp(rng.gauss(0, spread))))
    keys = iter(range(1000))

    def pack(branches, turns=1):
        made = {"segments": [], "predict": [], "queries": [], "passages": []}

        def segment(ids, position, sees=()):
            sees = [{"segment": number, "position": start} for number, start in sees]
            made["segments"].append({"ids": ids, "position": position, "sees": sees})
            return len(made["segments"]) - 1

        def at(number, offset):
            return {"segment": number, "offset": offset % len(made["segments"][number]["ids"])}

        def block():
            key = next(keys)
            number = segment([CONTROL["open"], *words(length(150, 0.35)), CONTROL["passage"]], 0)
            made["passages"].append({"at": at(number, -1), "key": key})
            return number, key

        def ask(prompt, key):
            ids = made["segments"][prompt]["ids"]
            made["predict"].append({"at": at(prompt, -2), "id": ids[-1]})
            made["queries"].append({"at": at(prompt, -1), "positives": [key], "negatives": []})

        def learn(answer, first, last):
            ids = made["segments"][answer]["ids"]
            for offset in range(first, last):
                made["predict"].append({"at": at(answer, offset), "id": ids[offset + 1]})

        size = lambda number: len(made["segments"][number]["ids"])
        shared = block() if branches > 1 else None
        for _ in range(branches):
            seen, position, answered = [], 0, []
            for _ in range(turns):
                question = words(length(12, 0.3) + 8) + [CONTROL["query"]]
                prompt = segment(answered + question, position, seen)
                learn(prompt, 0, len(answered) - 1)
                passage, key = shared or block()
                ask(prompt, key)
                landing = position + size(prompt)
                seen = [*seen, (prompt, position), (passage, landing)]
                position = landing + size(passage)
                answered = [CONTROL["close"], *words(length(5, 0.5) + 2)]
            answer = segment(answered, position, seen)
            learn(answer, 0, size(answer) - 1)
        return made

    packs = [pack(3), pack(3), *(pack(1) for _ in range(4)), pack(1, turns=2)]
    queue = []
    for key in range(1000, 1512):
        vector = [rng.gauss(0, 1) for _ in range(HIDDEN)]
        norm = math.sqrt(sum(x * x for x in vector))
        queue.append({"key": key, "vector": [round(x / norm, 6) for x in vector]})
    return {"lambda_g": 1.0, "lambda_r": 0.5, "temperature": 0.05, "queue": queue, "packs": packs}


def positions_of(segments):
    """A position for each segment at which all who see it see it: distances are all that counts."""
    moved = [None] * len(segments)
    neighbours = [[] for _ in segments]
    for number, segment in enumerate(segments):
        for seen in segment["sees"]:
            apart = seen["position"] - segment["position"]
            neighbours[number].append((seen["segment"], apart))
            neighbours[seen["segment"]].append((number, -apart))
    for start in range(len(segments)):
        if moved[start] is not None:
            continue
        moved[start], reached = 0, [start]
        for number in reached:
            for other, apart in neighbours[number]:
                if moved[other] is None:
                    moved[other] = moved[number] + apart
                    reached.append(other)
                elif moved[other] != moved[number] + apart:
                    raise SystemExit(f"segment {other} is seen at distances that no single layout has")
        least = min(moved[number] for number in reached)
        for number in reached:
            moved[number] -= least
    return moved


# --- PyTorch ---------------------------------------------------------------------------------------------


def pytorch(arguments):
    """Runs PyTorch's steps in this process and prints what they took."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    batch = json.loads(arguments.batch.read_text())

    base = arguments.base
    where = {"gguf_file": base.name} if base.is_file() else {}
    model = AutoModelForCausalLM.from_pretrained(
        base.parent if base.is_file() else base,
        dtype=torch.float32,
        attn_implementation=arguments.attention,
        **where,
    )
    model.requires_grad_(False)
    model.config.use_cache = False
    table = model.get_input_embeddings().weight
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    class LowRank(torch.nn.Module):
        """A frozen matrix with an adapter beside it, whose product is added in place."""

        def __init__(self, linear):
            super().__init__()
            outputs, inputs = linear.weight.shape
            self.weight = linear.weight
            bound = inputs**-0.5
            self.a = torch.nn.Parameter(torch.empty(RANK, inputs).uniform_(-bound, bound))
            self.b = torch.nn.Parameter(torch.zeros(outputs, RANK))

        def forward(self, x):
            rows = x.flatten(0, -2)
            y = F.linear(rows, self.weight)
            y = y.addmm_(F.linear(rows, self.a), self.b.t(), alpha=ALPHA / RANK)
            return y.view(*x.shape[:-1], -1)

    if arguments.lora == "peft":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=names)
        get_peft_model(model, config)
    else:
        for module in list(model.modules()):
            for name in names:
                if isinstance(getattr(module, name, None), torch.nn.Linear):
                    setattr(module, name, LowRank(getattr(module, name)))
    control = torch.tensor(sorted(CONTROL.values()))
    rows = torch.nn.Parameter(table[control].clone())
    slot = torch.full((table.shape[0],), -1)
    slot[control] = torch.arange(len(control))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad] + [rows]
    optimiser = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.0, fused=True)
    decoder = torch.compile(model.model) if arguments.compile else model.model

    # Packs of like lengths share a forward; what is beside them is padding that sees itself only.
    packs = batch["packs"]
    tokens = [sum(len(segment["ids"]) for segment in pack["segments"]) for pack in packs]
    order = sorted(range(len(packs)), key=lambda number: -tokens[number])
    forwards = [order[start : start + arguments.rows] for start in range(0, len(order), arguments.rows)]
    starts, inputs = [0] * len(packs), []
    flat = 0
    for group in forwards:
        width = max(tokens[number] for number in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        positions = torch.zeros(len(group), width, dtype=torch.long)
        visible = torch.eye(width, dtype=torch.bool).repeat(len(group), 1, 1)
        for row, number in enumerate(group):
            starts[number] = flat
            flat += width
            segments = packs[number]["segments"]
            ends = [0]
            for segment in segments:
                ends.append(ends[-1] + len(segment["ids"]))
            for own, (segment, position) in enumerate(zip(segments, positions_of(segments))):
                span = slice(ends[own], ends[own + 1])
                length = len(segment["ids"])
                ids[row, span] = torch.tensor(segment["ids"])
                positions[row, span] = torch.arange(position, position + length)
                visible[row, span, span] = torch.ones(length, length, dtype=torch.bool).tril()
                for seen in segment["sees"]:
                    visible[row, span, ends[seen["segment"]] : ends[seen["segment"] + 1]] = True
        mask = torch.zeros(len(group), 1, width, width)
        mask.masked_fill_(~visible[:, None], torch.finfo(torch.float32).min)
        inputs.append((ids, positions, mask))

    def places(what):
        found = []
        for pack, start in zip(packs, starts):
            ends = [start]
            for segment in pack["segments"]:
                ends.append(ends[-1] + len(segment["ids"]))
            found += [ends[entry["at"]["segment"]] + entry["at"]["offset"] for entry in pack[what]]
        return torch.tensor(found)

    each = lambda what: [entry for pack in packs for entry in pack[what]]
    predict, queries, passages = places("predict"), places("queries"), places("passages")
    targets = torch.tensor([target["id"] for target in each("predict")])
    keys = [passage["key"] for passage in each("passages")]
    queue = [entry for entry in batch["queue"] if entry["key"] not in keys]
    vectors = torch.tensor([entry["vector"] for entry in queue])
    keys += [entry["key"] for entry in queue]
    own = torch.tensor([keys.index(query["positives"][0]) for query in each("queries")])
    ignored = torch.zeros(len(own), len(keys), dtype=torch.bool)
    for row, query in enumerate(each("queries")):
        for column, key in enumerate(keys):
            ignored[row, column] = key in query["positives"] and column != own[row]

    def step():
        states = []
        for ids, positions, mask in inputs:
            embedded = F.embedding(ids, table)
            chosen = slot[ids]
            embedded = torch.where((chosen >= 0)[..., None], rows[chosen.clamp(min=0)], embedded)
            output = decoder(inputs_embeds=embedded, position_ids=positions, attention_mask=mask)
            states.append(output.last_hidden_state.flatten(0, 1))
        states = torch.cat(states)
        written = states[predict]
        logits = F.linear(written, table).index_copy(1, control, F.linear(written, rows))
        language = F.cross_entropy(logits, targets)
        candidates = torch.cat([F.normalize(states[passages], dim=-1), vectors])
        cosines = F.normalize(states[queries], dim=-1) @ candidates.t()
        scores = (cosines / batch["temperature"]).masked_fill(ignored, -torch.inf)
        retrieval = F.cross_entropy(scores, own)
        (batch["lambda_g"] * language + batch["lambda_r"] * retrieval).backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return language.item(), retrieval.item()

    forget_peak()
    losses = step()
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(arguments.steps):
        step()
    result = {
        "tokens": sum(tokens) * arguments.steps,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "peak_rss_mib": peak_mib(),
        "language": losses[0],
        "retrieval": losses[1],
    }
    print(json.dumps(result))


def forget_peak():
    """Has Linux measure the largest resident set from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


# --- Both ------------------------------------------------------------------------------------------------


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | QUIET)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(arguments):
    shared = ["--base", str(arguments.base), "--batch", str(arguments.batch)]
    shared += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    peer = [sys.executable, __file__, "--process", "--lora", arguments.lora, *shared]
    peer += ["--attention", arguments.attention, "--rows", str(arguments.rows)]
    peer += ["--compile"] * arguments.compile
    commands = {"onegen": [str(arguments.ours), "bench-step", *shared], "pytorch": peer}
    sides = [side for side in commands if arguments.only in (None, side)]
    results = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side in sides:
            result = run(commands[side])
            result["speed"] = result["tokens"] / result["seconds"]
            results[side].append(result)
            cpu = f" {result['cpu_seconds']:6.1f} s of CPU" if "cpu_seconds" in result else ""
            seconds, peak = result["seconds"], result["peak_rss_mib"]
            print(f"{side:8} {result['speed']:7.1f} tokens/s {peak:6.0f} MiB {seconds:6.1f} s{cpu}", flush=True)
    median = lambda side, what: statistics.median(result[what] for result in results[side])
    for side in sides:
        first = results[side][0]
        losses = " ".join(f"{name} {first[name]:.4f}" for name in ("language", "retrieval") if name in first)
        print(f"{side}: {median(side, 'speed'):.1f} tokens/s, {median(side, 'peak_rss_mib'):.0f} MiB; {losses}")
    if len(sides) == 2:
        ratio = lambda what: statistics.median(
            ours[what] / theirs[what] for ours, theirs in zip(results["onegen"], results["pytorch"])
        )
        print(f"ratios: speed {ratio('speed'):.2f}, memory {ratio('peak_rss_mib'):.2f}")


def main():
    parser = argparse.ArgumentParser(description="compares a LoRA step with PyTorch's")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--batch", type=Path)
    parser.add_argument("--write", type=Path, help="where to keep the batch that is made")
    parser.add_argument("--ours", type=Path, default=Path("target/release/onegen-train"))
    parser.add_argument("--only", choices=["onegen", "pytorch"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lora", choices=["plain", "peft"], default="plain")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--rows", type=int, default=1, help="packs of one forward in PyTorch")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        return pytorch(arguments)
    with tempfile.TemporaryDirectory() as directory:
        if arguments.batch is None:
            arguments.batch = arguments.write or Path(directory) / "batch.json"
            arguments.batch.write_text(json.dumps(made_batch()) + "\n")
        compare(arguments)


if __name__ == "__main__":
    main()
