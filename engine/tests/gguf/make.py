"""Writes the golden files of engine/tests/gguf_tokenizer.rs with llama.cpp and sentencepiece.

    pip install gguf sentencepiece tokenizers
    python engine/tests/gguf/make.py LLAMA_TOKENIZE [LLAMA_2_GGUF]

LLAMA_TOKENIZE is llama.cpp's program of that name, LLAMA_2_GGUF any file with Llama 2's vocabulary.

`pieces.json` and `bytes.json` hold a small vocabulary each, as a GGUF file lists it, and the ids that
llama.cpp gives for TEXTS; `llama2.json` holds those ids for Llama 2's vocabulary. Ids of `pieces.json` are
checked against sentencepiece, those of `bytes.json` against tokenizers where it has the same rules.
"""

import io
import json
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import gguf
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers import Regex

HERE = Path(__file__).parent
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

TEXTS = [
    "What is the capital of Peru?",
    " Leading space, and  two   three    four spaces ",
    "  ",
    "\n\nNew\nlines\r\nand\ttabs \n  x",
    "In 1984 there were 31,415,926 of them; 7% left at 23:59.",
    "It's we'll THEY'RE I'd don't can'T",
    "naïve café Ærøskøbing — «Perú» … ½ ŷ",
    "cafe\u0301 decomposed",
    "日本語のテキスト 中文 한국어 العربية עברית",
    "🦙🏽 emoji 👩‍👩‍👧 and \u200b zero width",
    "fn main() { println!(\"{}\", x_1 + y2); } // ok",
    "a<s>b</s> <0x0A> ▁ <unk> [RQ]",
    "unreachable reachable unreachableness",
    "the the the thethe THE The",
    "x" * 70,
]

CORPUS = """
What is the capital of Peru? Lima is the capital of Peru, a country on the coast. The people of the
country speak the language of the land, and they say that the land is theirs. In the year 1984 there
were three of them, then thirty, then 31,415 and 926 more. It's what we'll see: they're here, I'd say,
and I don't know whether you can. The river runs to the sea; the sea runs to the shore of the island.
A naïve reader of the café's list sees Perú and Ærøskøbing. New lines and tabs make the table stand.
fn main() { println!("{}", x + y); } is a program. Whoever reads the text reads two or three or four
words at a time, with spaces between. THE END is not the end. The other emoji are there, too, and other
texts in other languages: 日本語のテキスト 中文 한국어. Reachable is what can be reached by a merge.
"""


def write_gguf(path, settings):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(settings["model"])
    if "pre" in settings:
        writer.add_tokenizer_pre(settings["pre"])
    writer.add_token_list(settings["tokens"])
    writer.add_token_types(settings["types"])
    if "scores" in settings:
        writer.add_token_scores(settings["scores"])
    if "merges" in settings:
        writer.add_token_merges(settings["merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def llama_ids(program, model, text):
    arguments = ["--ids", "--stdin", "--no-bos", "--no-parse-special", "--no-escape", "--log-disable"]
    done = subprocess.run([program, "-m", model, *arguments], input=text.encode(), capture_output=True)
    return json.loads(done.stdout)


def ids_of_settings(program, settings):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vocabulary.gguf"
        write_gguf(path, settings)
        return [llama_ids(program, path, text) for text in settings["texts"]]


def pieces(program):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.strip().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        character_coverage=0.995,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        hard_vocab_limit=False,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.vocab_size())

    def kind(i):
        if processor.is_unknown(i):
            return UNKNOWN
        if processor.is_control(i):
            return CONTROL
        return BYTE if processor.is_byte(i) else NORMAL

    settings = dict(
        model="llama",
        tokens=[processor.id_to_piece(i) for i in ids],
        scores=[processor.get_score(i) for i in ids],
        types=[kind(i) for i in ids],
        texts=TEXTS,
    )
    golden = ids_of_settings(program, settings)
    for text, wanted in zip(TEXTS, golden):
        got = processor.encode(text)
        if got != wanted:
            print("pieces: sentencepiece differs", repr(text), wanted, got)
    write("pieces.json", {**settings, "ids": golden})


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level():
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    trainer = trainers.BpeTrainer(
        vocab_size=560,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<unk>", "<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.strip().splitlines(), trainer)
    return tokenizer


def bytes_(program):
    tokenizer = byte_level()
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    # A token that no merge makes: some rules take it as a whole, others never.
    tokens.append("Ġreachable")
    settings = dict(
        model="gpt2",
        tokens=tokens,
        types=[CONTROL] * 3 + [NORMAL] * (len(tokens) - 3),
        merges=[" ".join(pair) for pair in model["merges"]],
        texts=TEXTS,
    )
    golden = {}
    for pre in ["llama-bpe", "qwen2", "tekken", "gpt-2", "smollm", "default"]:
        texts = TEXTS
        if pre == "qwen2":
            # Its own tokenizer composes characters first, which llama.cpp leaves out.
            texts = [unicodedata.normalize("NFC", text) for text in TEXTS]
        golden[pre] = ids_of_settings(program, {**settings, "pre": pre, "texts": texts})
    for text, wanted in zip(TEXTS, golden["llama-bpe"]):
        got = tokenizer.encode(text, add_special_tokens=False).ids
        if got != wanted:
            print("bytes: tokenizers differ", repr(text), wanted, got)
    write("bytes.json", {**settings, "ids": golden})


def llama2(program, model):
    golden = [llama_ids(program, model, text) for text in TEXTS]
    write("llama2.json", {"texts": TEXTS, "ids": golden})


def write(name, value):
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
    (HERE / name).write_text("{\n" + lines + "\n}\n")


pieces(sys.argv[1])
bytes_(sys.argv[1])
if len(sys.argv) > 2:
    llama2(sys.argv[1], sys.argv[2])
