"""Writes the golden files of block attention, for the models that make.py has written.

    pip install torch transformers safetensors
    python engine/tests/parity/make_blocks.py

For each family blocks.safetensors with `ids` (sequence), `positions` (asked), `logits` (asked, vocab) and
`hidden` (asked, hidden_size, after the final norm), computed in f32 under a 4-D mask: tokens of a passage
block (OPEN, the passage, END) see their block only, all others everything before them.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
# Those of the tokenizer that parity.rs writes.
OPEN, END, CLOSE = 310, 311, 312
# Texts and passage blocks by turns. The second block is longer than a block of a KV-cache.
LENGTHS = [10, 20, 7, 140, 22]


def layout():
    """Ids, and for each the number of its passage block or -1."""
    generator = torch.Generator().manual_seed(22)
    ids, blocks = [], []
    for number, length in enumerate(LENGTHS):
        new = torch.randint(0, OPEN, (length,), generator=generator).tolist()
        if number % 2 == 1:
            new[0], new[-1] = OPEN, END
        elif number > 0:
            new[0] = CLOSE
        ids += new
        blocks += [number if number % 2 == 1 else -1] * length
    return torch.tensor([ids]), torch.tensor(blocks)


def write(directory):
    model = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids, blocks = layout()
    at = torch.arange(ids.shape[1])
    seen = at[None, :] <= at[:, None]
    seen &= (blocks[:, None] < 0) | (blocks[:, None] == blocks[None, :])
    # transformers takes a 4-D mask as it is, without adding the window.
    if (window := getattr(model.config, "sliding_window", None)) is not None:
        seen &= at[:, None] - at[None, :] < window
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        out = model(ids, attention_mask=mask[None, None], output_hidden_states=True)
    ends = torch.tensor(LENGTHS).cumsum(0)
    # The last text token before each block, the block's first and last, and the one behind it.
    asked = [ends[0] - 1, ends[0], ends[1] - 1, ends[1], ends[2], ends[3] - 1, ends[3], ends[4] - 1]
    golden = {
        "ids": ids[0].to(torch.int64),
        "positions": torch.tensor(asked, dtype=torch.int64),
        "logits": out.logits[0, asked].contiguous(),
        "hidden": out.hidden_states[-1][0, asked].contiguous(),
    }
    save_file(golden, directory / "blocks.safetensors")
    print(directory.name, ids.shape[1])


for config in sorted(HERE.glob("*/config.json")):
    write(config.parent)
