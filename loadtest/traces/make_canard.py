"""Writes canard.jsonl: turn counts and lengths of CANARD's development dialogues, without their texts.

    python make_canard.py canard.questions.jsonl.gz > canard.jsonl
"""

import gzip
import json
import random
import sys

# Tokens of SmolLM2's tokenizer for a word, roughly.
TOKENS_A_WORD = 1.4
CONVERSATIONS = 120


def dialogues(path):
    """The longest history of each dialogue, with its last question."""
    with gzip.open(path, "rt") as lines:
        records = [json.loads(line) for line in lines]
    longest = {}
    for record in records:
        turns = [(turn["q"], turn["a"]) for turn in record.get("history", [])]
        turns.append((record["question"], record["answers"][0] if record["answers"] else ""))
        first = turns[0]
        if len(turns) > len(longest.get(first, [])):
            longest[first] = turns
    return list(longest.values())


def main():
    rng = random.Random(1)
    all_dialogues = dialogues(sys.argv[1])
    rng.shuffle(all_dialogues)
    at = 0.0
    for turns in all_dialogues[:CONVERSATIONS]:
        at += rng.expovariate(1.0)
        shape = []
        for number, (question, answer) in enumerate(turns):
            turn = {"think": round(rng.expovariate(1 / 5), 2)} if number else {}
            turn["question_words"] = max(1, len(question.split()))
            turn["answer_tokens"] = min(64, max(1, round(len(answer.split()) * TOKENS_A_WORD)))
            shape.append(turn)
        print(json.dumps({"at": round(at, 2), "turns": shape}))


main()
