// Which sentence of a passage the answer was probably read from: a guess from words, no more.

/** The sentences of a text, in order; joined they are the text. */
export function sentences(text) {
  const segmenter = new Intl.Segmenter("en", { granularity: "sentence" });
  return Array.from(segmenter.segment(text), (part) => part.segment);
}

/**
 * The index of the sentence that shares most different words with the answer; of several the one that
 * shares most with the question, then the first. -1 if none shares a word with the answer.
 */
export function likeliest(parts, answer, question) {
  const [answered, asked] = [words(answer), words(question)];
  let best = { at: -1, answered: 0, asked: 0 };
  parts.forEach((part, at) => {
    const of = words(part);
    const shared = { at, answered: common(of, answered), asked: common(of, asked) };
    const better =
      shared.answered > best.answered ||
      (shared.answered > 0 && shared.answered === best.answered && shared.asked > best.asked);
    if (better) best = shared;
  });
  return best.at;
}

function words(text) {
  return new Set(text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []);
}

function common(one, other) {
  let both = 0;
  for (const word of one) if (other.has(word)) both += 1;
  return both;
}
