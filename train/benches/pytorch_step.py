"""PyTorch's side of `against_pytorch.py`: LoRA steps in this process, one line of JSON at the end.

A pack becomes one sequence with position ids and an additive mask. A passage block that several branches read
stands at one position for all of them: only distances count, so branches are moved until it does. Packs of
like lengths share a forward where `--rows` says so. Logits are computed at targets only.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONTROL = torch.tensor([4, 5, 7, 9])
NEVER = torch.finfo(torch.float32).min


# --- Where tokens stand ----------------------------------------------------------------------------------


def positions_of(segments):
    """A position for each segment such that all who see it see it there."""
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


def spans_of(segments):
    """Where each segment's tokens are in their pack's sequence."""
    end, spans = 0, []
    for segment in segments:
        spans.append(slice(end, end + len(segment["ids"])))
        end = spans[-1].stop
    return spans


class Layout:
    """A batch as inputs of forwards, and where its entries are in their states, one after the other."""

    def __init__(self, packs, rows):
        self.packs = packs
        tokens = [sum(len(segment["ids"]) for segment in pack["segments"]) for pack in packs]
        self.tokens = sum(tokens)
        self.starts, self.inputs, flat = [0] * len(packs), [], 0
        order = sorted(range(len(packs)), key=lambda number: -tokens[number])
        for first in range(0, len(order), rows):
            group = order[first : first + rows]
            width = max(tokens[number] for number in group)
            for row, number in enumerate(group):
                self.starts[number] = flat + row * width
            flat += len(group) * width
            self.inputs.append(self.forward_of([packs[number]["segments"] for number in group], width))

    @staticmethod
    def forward_of(group, width):
        """Ids, positions and mask of some packs; what is behind a shorter one sees itself only."""
        ids = torch.zeros(len(group), width, dtype=torch.long)
        positions = torch.zeros_like(ids)
        visible = torch.eye(width, dtype=torch.bool).repeat(len(group), 1, 1)
        for row, segments in enumerate(group):
            spans = spans_of(segments)
            for segment, span, position in zip(segments, spans, positions_of(segments)):
                length = len(segment["ids"])
                ids[row, span] = torch.tensor(segment["ids"])
                positions[row, span] = torch.arange(position, position + length)
                visible[row, span, span] = torch.ones(length, length, dtype=torch.bool).tril()
                for seen in segment["sees"]:
                    visible[row, span, spans[seen["segment"]]] = True
        mask = torch.zeros(len(group), 1, width, width).masked_fill_(~visible[:, None], NEVER)
        return ids, positions, mask

    def entries(self, what):
        return [entry for pack in self.packs for entry in pack[what]]

    def places(self, what):
        places = []
        for pack, start in zip(self.packs, self.starts):
            spans = spans_of(pack["segments"])
            at = [entry["at"] for entry in pack[what]]
            places += [start + spans[place["segment"]].start + place["offset"] for place in at]
        return torch.tensor(places)


# --- The model -------------------------------------------------------------------------------------------


class LowRank(nn.Module):
    """A frozen matrix with an adapter beside it, whose product is added in place."""

    def __init__(self, linear, rank, alpha):
        super().__init__()
        outputs, inputs = linear.weight.shape
        self.weight, self.bias, self.scale = linear.weight, linear.bias, alpha / rank
        self.a = nn.Parameter(torch.empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        rows = x.flatten(0, -2)
        y = F.linear(rows, self.weight, self.bias)
        y = y.addmm_(F.linear(rows, self.a), self.b.t(), alpha=self.scale)
        return y.unflatten(0, x.shape[:-1])


class Model:
    """A frozen base with adapters and learnt rows of the control tokens, in a tied table."""

    def __init__(self, arguments):
        base = arguments.base
        gguf = {"gguf_file": base.name} if base.is_file() else {}
        model = AutoModelForCausalLM.from_pretrained(
            base.parent if base.is_file() else base,
            dtype=torch.float32,
            attn_implementation=arguments.attention,
            **gguf,
        )
        model.requires_grad_(False)
        model.config.use_cache = False
        self.table = model.get_input_embeddings().weight
        if arguments.lora == "peft":
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=arguments.rank, lora_alpha=arguments.rank, target_modules=LINEAR)
            get_peft_model(model, config)
        else:
            for parent in list(model.modules()):
                for name, child in list(parent.named_children()):
                    if name in LINEAR:
                        setattr(parent, name, LowRank(child, arguments.rank, arguments.rank))
        self.rows = nn.Parameter(self.table[CONTROL].clone())
        self.row_of = torch.full((len(self.table),), -1)
        self.row_of[CONTROL] = torch.arange(len(CONTROL))
        self.learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.learnt.append(self.rows)
        self.decoder = torch.compile(model.model) if arguments.compile else model.model

    def states(self, ids, positions, mask):
        """The states after the final norm, (sequences · tokens, hidden)."""
        row = self.row_of[ids]
        learnt = self.rows[row.clamp(min=0)]
        embedded = torch.where((row >= 0)[..., None], learnt, F.embedding(ids, self.table))
        output = self.decoder(inputs_embeds=embedded, position_ids=positions, attention_mask=mask)
        return output.last_hidden_state.flatten(0, 1)

    def logits(self, states):
        return F.linear(states, self.table).index_copy(1, CONTROL, F.linear(states, self.rows))


class Losses:
    """Cross-entropy and InfoNCE of a batch, given its states."""

    def __init__(self, batch, layout):
        self.batch = batch
        self.predict, self.queries, self.passages = map(layout.places, ["predict", "queries", "passages"])
        self.targets = torch.tensor([target["id"] for target in layout.entries("predict")])
        keys = [passage["key"] for passage in layout.entries("passages")]
        queue = [entry for entry in batch["queue"] if entry["key"] not in keys]
        keys += [entry["key"] for entry in queue]
        self.queue = torch.tensor([entry["vector"] for entry in queue])
        positives = [query["positives"] for query in layout.entries("queries")]
        self.own = torch.tensor([keys.index(right[0]) for right in positives])
        right = torch.tensor([[key in right for key in keys] for right in positives])
        self.ignored = right.scatter(1, self.own[:, None], False)

    def __call__(self, model, states):
        language = F.cross_entropy(model.logits(states[self.predict]), self.targets)
        passages = F.normalize(states[self.passages], dim=-1)
        cosines = F.normalize(states[self.queries], dim=-1) @ torch.cat([passages, self.queue]).t()
        scores = (cosines / self.batch["temperature"]).masked_fill(self.ignored, -torch.inf)
        return language, F.cross_entropy(scores, self.own)


# --- Steps -----------------------------------------------------------------------------------------------


def forget_peak():
    """Has Linux measure the largest resident set from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_mib(field):
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def main():
    parser = argparse.ArgumentParser(description="runs LoRA steps in PyTorch")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--batch", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rows", type=int, default=2, help="packs of one forward")
    parser.add_argument("--lora", choices=["plain", "peft"], default="plain")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()

    libraries = resident_mib("VmRSS")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    batch = json.loads(arguments.batch.read_text())
    layout = Layout(batch["packs"], arguments.rows)
    losses = Losses(batch, layout)
    model = Model(arguments)
    optimiser = torch.optim.AdamW(model.learnt, lr=1e-3, weight_decay=0.0, fused=True)

    def step():
        states = torch.cat([model.states(*inputs) for inputs in layout.inputs])
        language, retrieval = losses(model, states)
        (batch["lambda_g"] * language + batch["lambda_r"] * retrieval).backward()
        nn.utils.clip_grad_norm_(model.learnt, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return {"language": language.item(), "retrieval": retrieval.item()}

    forget_peak()
    before = step()
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(arguments.steps):
        step()
    measured = {
        "tokens": layout.tokens * arguments.steps,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "peak_rss_mib": resident_mib("VmHWM"),
        "libraries_mib": libraries,
    }
    print(json.dumps(measured | before))


if __name__ == "__main__":
    main()
