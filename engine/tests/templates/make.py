"""Writes the golden files of engine/tests/all/templates.rs with Hugging Face transformers.

    pip install transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
    python engine/tests/templates/make.py

For each family a directory that holds its `chat_template.jinja` already (README.md says where each comes from).
This adds `tokenizer.json`, a small tokenizer of the family's kind with its special tokens, `tokenizer_config.json`,
and `golden.json`: conversations and the ids that `apply_chat_template` gives for them, or that it refuses them.
Nothing is fetched.
"""

import json
from pathlib import Path

import jinja2
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
VERSIONS = {"transformers": "5.24.0", "tokenizers": "0.23.3", "jinja2": "3.1.6"}

TEXT = """What is the capital of Peru? Lima is the capital of Peru, a country on the coast. You are a helpful assistant.
Cutting Knowledge Date: December 2023. Today Date: 26 July 2024. user system assistant model think
The answer is short. And its currency? The sol. Tell me more, please; I asked twice."""

GPT_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def special(content, **flags):
    return AddedToken(content, special=True, normalized=False, **flags)


def plain(content, **flags):
    return AddedToken(content, special=False, normalized=False, **flags)


def byte_level(added, split=GPT_CUT):
    """Llama 3's, Qwen's and SmolLM2's kind."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    for token in added:
        tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens([token])
    return tokenizer


def sentencepiece(added, before, normalizer=None, pre_tokenizer=None):
    """Llama 2's, Mistral's and Gemma's kind: a mark for each space, and bytes where nothing else fits."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learner.train_from_iterator([TEXT], BpeTrainer(vocab_size=200, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    vocab = {}
    for token in [t.content for t in before] + [f"<0x{byte:02X}>" for byte in range(256)] + list(learnt["vocab"]):
        vocab.setdefault(token, len(vocab))
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    for token in before + added:
        tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens([token])
    return tokenizer


START = [special("<unk>"), special("<s>"), special("</s>")]
CHATML = [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")]
TOOLS = [plain("<tool_call>"), plain("</tool_call>"), plain("<|fim_prefix|>")]
GEMMA = [special("<pad>"), special("<eos>"), special("<bos>"), special("<unk>")]

FAMILIES = {
    "llama-3.1": (
        byte_level([
            special(t) for t in [
                "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                "<|eom_id|>", "<|python_tag|>",
            ]
        ]),
        dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"),
    ),
    "qwen2.5": (byte_level(CHATML + TOOLS), dict(eos_token="<|im_end|>")),
    "qwen3": (
        byte_level(CHATML + TOOLS + [
            plain("<tool_response>"), plain("</tool_response>"), plain("<think>"), plain("</think>"),
        ]),
        dict(eos_token="<|im_end|>"),
    ),
    "smollm2": (byte_level(CHATML), dict(bos_token="<|im_start|>", eos_token="<|im_end|>")),
    "mistral-v0.3": (
        sentencepiece(
            [], START + [special("[INST]"), special("[/INST]"), special("[AVAILABLE_TOOLS]"), special("[TOOL_CALLS]")],
            pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        ),
        dict(bos_token="<s>", eos_token="</s>"),
    ),
    "mistral-tekken": (
        byte_level([special(t) for t in [
            "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
        ]]),
        dict(bos_token="<s>", eos_token="</s>"),
    ),
    "gemma-3": (
        sentencepiece(
            # Runs of line breaks and tags are added tokens that texts contain.
            [plain("\n\n"), plain("\n\n\n"), plain("▁▁"), plain("▁▁▁")],
            GEMMA + [plain("<start_of_turn>"), plain("<end_of_turn>"), plain("<start_of_image>"), plain("\n")],
            normalizer=normalizers.Replace(" ", "▁"),
            pre_tokenizer=pre_tokenizers.Split(" ", behavior="merged_with_previous"),
        ),
        dict(bos_token="<bos>", eos_token="<eos>"),
    ),
    "llama-2": (
        sentencepiece(
            [], START,
            normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        ),
        dict(bos_token="<s>", eos_token="</s>"),
    ),
    "phi-3": (
        sentencepiece(
            [special("<|endoftext|>"), special("<|assistant|>", rstrip=True), special("<|system|>", rstrip=True),
             special("<|end|>", rstrip=True), special("<|user|>", rstrip=True)],
            START,
            normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        ),
        dict(bos_token="<s>", eos_token="<|endoftext|>"),
    ),
    "methods": (byte_level(CHATML), dict(eos_token="<|im_end|>")),
}

THOUGHT = "<think>\nThe capital of Peru? It is Lima.\n</think>\n\nLima."
CONVERSATIONS = {
    "one question": [("user", "What is the capital of Peru?")],
    "a system message": [("system", "You are short."), ("user", "What is the capital of Peru?")],
    "several turns": [
        ("user", "What is the capital of Peru?"), ("assistant", "Lima."), ("user", "And its currency?"),
        ("assistant", "The sol."), ("user", "Tell me more, please"),
    ],
    "a system message and several turns": [
        ("system", "You are a helpful assistant."), ("user", "What is the capital of Peru?"), ("assistant", "Lima."),
        ("user", "And its currency?"),
    ],
    "thoughts in an earlier answer": [
        ("user", "What is the capital of Peru?"), ("assistant", THOUGHT), ("user", "And its currency?"),
    ],
    "thoughts in several answers": [
        ("system", "Think."), ("user", "Peru?"), ("assistant", THOUGHT), ("user", "And its currency?"),
        ("assistant", "<think>\n\n</think>\n\nThe sol.\n"), ("user", "I asked twice"),
    ],
    "half of a thought": [("user", "Peru?"), ("assistant", "Lima</think> is it"), ("user", "And more")],
    "white space at the ends": [
        ("system", " \n You are short.\n\n"), ("user", "  What is the capital of Peru? \n"),
        ("assistant", "\n Lima. \t\n"), ("user", "\u00a0And its currency?\u2003\n\n"),
    ],
    "nothing and white space only": [("user", " \n "), ("assistant", ""), ("user", "\t")],
    "unusual characters": [
        ("system", "Perú — 日本 🦙🏽"), ("user", "naïve ﬁ ½ \u0301 \u200d \ufeff \ue000 \U000f0000 é"),
        ("assistant", "\x01\x1c ça \u2028va"), ("user", "Ω≈ç√ 한국어 \x1f"),
    ],
    "line breaks and spaces within": [
        ("user", "a\n\nb\n\n\nc   d\te\r\nf"), ("assistant", "- one\n- two\n\n    code\n"), ("user", "{{ 1 + 1 }} {% raw %}"),
    ],
    "a turn of nobody": [("user", "What?"), ("user", "What is it?")],
    "an answer first": [("assistant", "Lima."), ("user", "What?")],
}


def main():
    found = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "jinja2": jinja2.__version__}
    assert found == VERSIONS, f"the golden files are of {VERSIONS}, this is {found}"
    for name, (tokenizer, tokens) in FAMILIES.items():
        directory = HERE / name
        file = directory / "tokenizer.json"
        file.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        config = directory / "tokenizer_config.json"
        config.write_text(json.dumps(tokens) + "\n")
        fast = PreTrainedTokenizerFast(tokenizer_file=str(file), **tokens)
        fast.chat_template = (directory / "chat_template.jinja").read_text()
        golden = []
        for title, turns in CONVERSATIONS.items():
            messages = [{"role": role, "content": content} for role, content in turns]
            try:
                ids = fast.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            except jinja2.TemplateError as refused:
                print(f"{name}: {title}: {refused}")
                ids = None
            golden.append({"title": title, "messages": messages, "ids": ids})
        (directory / "golden.json").write_text(json.dumps(golden, separators=(",", ":")).replace('{"title"', '\n{"title"') + "\n")


if __name__ == "__main__":
    main()
