"""Writes smollm2.json, which engine/tests/gguf_tokenizer.rs reads, with Hugging Face's tokenizers.

    pip install gguf tokenizers
    python engine/tests/gguf/smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf [LLAMA_TOKENIZE]

The ids of a few hundred odd texts, as SmolLM2's own tokenizer.json cuts them (each digit alone, then GPT-2's
rules), over the vocabulary and the merges of the file. Control tokens are taken for plain text. Where
llama.cpp's llama-tokenize is given, its ids are compared, too.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

from gguf import GGUFReader
from tokenizers import Tokenizer, models, pre_tokenizers

HERE = Path(__file__).parent
PARTS = [
    "The", " the", "don't", " CAN'T", "we'll've", "'s", "’s", "x_1", "camelCase", "ÄÖÜ", "ß", "ǅ", "ﬁ", "é", "e\u0301",
    "0", "7", "42", "1984", "3.14", "1,000,000", "½", "²", "Ⅷ", "٣٤", "四", "㉓", "𝟘", " 12", "12 ", "v2.0b", "1st",
    " ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u2003", "\u200b", "\u3000", "\x0b",
    ".", "...", "…", "?!", "--", "—", "(", "))", "[RQ]", "{}", "<|im_start|>", "<|im_end|>", "<file_sep>", "</s>", "_",
    "$5", "€", "#include", "@user", "https://a.b/c?d=1&e=2", "C:\\x", "\"quoted\"", "`code`", "|", "~", "^", "+=", "\\n",
    "日本", "語の", "中文", "한국어", "العربية", "עברית", "हिन्दी", "ไทย", "Ελλάδα", "Пётр", "🦙", "🏽", "👩‍👩‍👧", "🇵🇪", "\ufe0f", "\ufeff",
    "\x01", "\x7f", "\ufffd", "\U0010ffff", "a" * 40, "!" * 20, "=" * 33, " " * 17,
]


def texts():
    """Each part alone, and some hundred rows of them."""
    rows = [*json.loads((HERE / "bytes.json").read_text())["texts"], *PARTS]
    draw = random.Random(7)
    for _ in range(250):
        rows.append("".join(draw.choices(PARTS, k=draw.randint(2, 6))))
    return rows


def tokenizer(path):
    fields = GGUFReader(path).fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    vocabulary = {token: id for id, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    return tokenizer


def llama_ids(program, model, text):
    arguments = ["--ids", "--stdin", "--no-bos", "--no-parse-special", "--no-escape", "--log-disable"]
    done = subprocess.run([program, "-m", model, *arguments], input=text.encode(), capture_output=True)
    return json.loads(done.stdout)


def main(path, program=None):
    own = tokenizer(path)
    rows = texts()
    ids = [own.encode(text, add_special_tokens=False).ids for text in rows]
    if program:
        for text, wanted in zip(rows, ids):
            got = llama_ids(program, path, text)
            if got != wanted:
                print("llama.cpp differs", repr(text), wanted, got)
    lines = ",\n".join(json.dumps([text, ids], ensure_ascii=True) for text, ids in zip(rows, ids))
    (HERE / "smollm2.json").write_text(f"[\n{lines}\n]\n")
    print(len(rows), "texts")


main(*sys.argv[1:])
