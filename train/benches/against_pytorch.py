"""Compares a training step of onegen-train with PyTorch's: LoRA of rank 32, frozen base, f32.

    pip install torch transformers peft gguf safetensors
    python train/benches/against_pytorch.py --base SmolLM2-135M-Instruct.Q4_1.gguf
    python train/benches/against_pytorch.py --base … --batch FILE --only pytorch

Both sides get the same base (a GGUF file or a Hugging Face directory), the same batch and the same number of
threads, and take turns, since the machine may be busy with other things: medians and the ratios of neighbours
are printed. Ours is `onegen-train bench-step --base FILE --batch FILE --steps N --threads N`, which prints one
line {"tokens": …, "seconds": …, "peak_rss_mib": …, "language": …, "retrieval": …} for N steps after one to
warm up; the losses are those before the first step and must be PyTorch's. A step is forward, losses, backward,
clipping and AdamW. Memory is the largest resident set: PyTorch's since its weights were loaded, ours at any time.

A batch is what `train/tests/golden/make.py` describes. Without --batch one is made: twelve questions in seven
packs, with the lengths of search questions, random ids and a queue of 512 passages; --write keeps it.

PyTorch's side is `pytorch_step.py`, whose options go behind `--`, such as `-- --lora peft --rows 4`. Both learn
adapters on all linear layers, `b` zero at first, and the rows of the tokens 4, 5, 7 and 9.
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
from pathlib import Path

HERE = Path(__file__).parent
CONTROL = {"query": 7, "passage": 9, "open": 5, "close": 4}
VOCABULARY, HIDDEN = 49152, 576
# On a busy machine threads that spin while they wait take the time of those they wait for: without the
# policy, PyTorch took several times as long under a load of ten.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


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


# --- Both ------------------------------------------------------------------------------------------------


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT | os.environ)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def show(side, result):
    speed = result["tokens"] / result["seconds"]
    cpu = f", {result['cpu_seconds']:.1f} s of CPU" if "cpu_seconds" in result else ""
    memory = f"{result['peak_rss_mib']:6.0f} MiB"
    print(f"{side:8} {speed:7.1f} tokens/s {memory} ({result['seconds']:.1f} s{cpu})", flush=True)


def compare(arguments, batch):
    shared = ["--base", str(arguments.base), "--batch", str(batch)]
    shared += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    ours = ["--precision", arguments.precision]
    commands = {
        "onegen": [str(arguments.ours), "bench-step", *shared, *ours],
        "pytorch": [sys.executable, str(HERE / "pytorch_step.py"), *shared, *arguments.peer],
    }
    sides = [side for side in commands if arguments.only in (None, side)]
    results = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side in sides:
            results[side].append(run(commands[side]))
            show(side, results[side][-1])
    speed = lambda result: result["tokens"] / result["seconds"]
    memory = lambda result: result["peak_rss_mib"]
    for side, measured in results.items():
        median = lambda what: statistics.median(map(what, measured))
        print(f"{side}: {median(speed):.1f} tokens/s, {median(memory):.0f} MiB")
    for result in results.get("pytorch", [])[:1]:
        print(f"of PyTorch's memory {result['libraries_mib']:.0f} MiB are its libraries")
    if len(sides) == 2:
        pairs = list(zip(results["onegen"], results["pytorch"]))
        check_same(*pairs[0], within=1e-3 if arguments.precision == "f32" else 1e-2)
        ratio = lambda what: statistics.median(what(ours) / what(theirs) for ours, theirs in pairs)
        print(f"ratios: speed {ratio(speed):.2f}, memory {ratio(memory):.2f}")
        if all("cpu_seconds" in result for pair in pairs for result in pair):
            # What a busy machine distorts less.
            work = lambda result: result["tokens"] / result["cpu_seconds"]
            print(f"tokens by CPU time: {ratio(work):.2f}")


def check_same(ours, theirs, within):
    """Both must have done the same: as many tokens, and the same losses before anything was learnt."""
    for name in ["tokens", "language", "retrieval"]:
        if abs(ours[name] - theirs[name]) > within * abs(theirs[name]):
            raise SystemExit(f"{name}: {ours[name]} here, {theirs[name]} in PyTorch")


def main():
    parser = argparse.ArgumentParser(description="compares a LoRA step with PyTorch's")
    parser.add_argument("--base", type=Path, required=True, help="a GGUF file or a Hugging Face directory")
    parser.add_argument("--batch", type=Path, help="without it one is made")
    parser.add_argument("--write", type=Path, help="where to keep the batch that is made")
    parser.add_argument("--ours", type=Path, default=Path("target/release/onegen-train"))
    parser.add_argument("--only", choices=["onegen", "pytorch"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["f32", "bf16", "q8_0"], default="f32", help="of ours")
    parser.add_argument("peer", nargs="*", help="options of pytorch_step.py, behind --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        batch = arguments.batch
        if batch is None:
            batch = arguments.write or Path(directory) / "batch.json"
            batch.write_text(json.dumps(made_batch()) + "\n")
        compare(arguments, batch)


if __name__ == "__main__":
    main()
