#!/usr/bin/env python3
"""What the official scorers of SQuAD and HotpotQA say of fixed predictions.

    python3 train/exam/official_scores.py evaluate-v1.1.py evaluate-v2.0.py hotpot_evaluate_v1.py \
        > train/exam/official_scores.json

The three scorers are public: SQuAD's stand on its home page, HotpotQA's in its repository. They are no
part of this project; `train/tests/official_scores.rs` holds `exam/score.rs` against what they said.
"""

import importlib.util
import json
import sys
import types

# Prediction, right answers. Written for the corners of the rules.
CASES = [
    ("Lima", ["Lima"]),
    ("the Lima", ["Lima"]),
    ("lima.", ["Lima", "the city of Lima"]),
    ("Lima, Peru", ["Lima"]),
    ("city of Lima", ["the City of Lima", "Lima"]),
    ("Lima Lima", ["Lima"]),
    ("Lima and Quito and Lima", ["Lima and Lima"]),
    ("", ["Lima"]),
    ("the", ["Lima"]),
    ("the", ["a"]),
    ("a", ["An", "Lima"]),
    ("October 1973", ["October 1973", "October", "1973"]),
    ("in October of 1973", ["October 1973", "October", "1973"]),
    ("$12", ["nearly $12", "$12"]),
    ("12", ["nearly $12", "$12"]),
    ("12.50", ["1250"]),
    ("U.S.", ["US"]),
    ("theatre", ["atre"]),
    ("the–Sun", ["Sun"]),
    ("a–b", ["b"]),
    ("l’a dit", ["dit"]),
    ("“Orm”", ["Orm"]),
    ("Röntgen", ["Rontgen", "röntgen"]),
    ("ÉCOLE", ["école"]),
    ("a_b", ["ab"]),
    ("the_sun", ["thesun", "sun"]),
    ("yes", ["yes"]),
    ("Yes.", ["yes"]),
    ("yes it is", ["yes"]),
    ("no", ["yes"]),
    ("no", ["no one"]),
    ("noanswer", ["no answer"]),
    ("one two three", ["three two one"]),
    ("one  two\tthree\n", ["one two three"]),
    ("one two", ["two three", "one four five", "six"]),
    ("東京", ["東京"]),
    ("٣ apples", ["٣ apples"]),
    ("x² an y", ["x² y"]),
    ("an", [""]),
    ("", [""]),
    ("", []),
    ("Lima", []),
    ("the", []),
    ("Lima", ["the", "Lima"]),
]


def load(path):
    spec = importlib.util.spec_from_file_location("scorer", path)
    module = importlib.util.module_from_spec(spec)
    # HotpotQA's reads files with a faster json; none is read here.
    sys.modules.setdefault("ujson", types.ModuleType("ujson"))
    spec.loader.exec_module(module)
    return module


def dataset(answers):
    return [{"title": "", "paragraphs": [{"context": "", "qas": [
        {"id": "q", "question": "", "answers": [{"text": answer} for answer in answers]}]}]}]


def main():
    one, two, hotpot = map(load, sys.argv[1:4])
    cases = []
    for prediction, answers in CASES:
        case = {"prediction": prediction, "answers": answers}
        exact, f1 = two.get_raw_scores(dataset(answers), {"q": prediction})
        case["squad2"] = [float(exact["q"]), float(f1["q"])]
        if answers:  # The other two know no unanswerable questions.
            best = one.metric_max_over_ground_truths
            case["squad1"] = [float(best(one.exact_match_score, prediction, answers)),
                              float(best(one.f1_score, prediction, answers))]
            case["hotpot"] = [float(max(hotpot.exact_match_score(prediction, a) for a in answers)),
                              float(max(hotpot.f1_score(prediction, a)[0] for a in answers))]
        cases.append(case)
    print("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
