// Runs a turn: sends a question to the server and follows its answer to the end, whatever happens to the
// connection, to this page or to the server.
//
// The server drives the turn by itself and numbers its events. A connection that breaks is made again
// from the first event that is missing; a reloaded page begins with the first event of all. If the server
// no longer has the stream, the page asks what the server has kept of the turn: all of it or nothing.

import * as api from "./api.js";
import * as store from "./store.js";
import { Broken, events } from "./stream.js";

/** A turn that was just stopped may keep its conversation busy for a moment. */
const BUSY_RETRIES = 10;
const BUSY_WAIT_MS = 150;
/** How long the page waits for a server that is down, and how often it asks. */
const PATIENCE_MS = 120_000;
const FIRST_WAIT_MS = 200;
const LONGEST_WAIT_MS = 5_000;
/** The longest time that a stop waits for the server. */
const STOP_MS = 5_000;

/** Why a conversation cannot be continued in the server's state. */
const GONE = {
  conversation_not_found: "The server had forgotten this conversation.",
  conversation_holds_deleted_document: "A document that this conversation had read was deleted.",
};
const FROM_HERE = "It goes on from what is shown here, without the passages read before.";
const ASKED_AGAIN = "The server had lost this answer, so the question was asked again.";

/** The server has kept nothing of the turn. */
class Lost extends Error {}
/** The turn was stopped by the user. */
class Stopped extends Error {}

/** A turn, the last of its conversation, on its way to its end. */
export class Run {
  /**
   * `grown(now)` is called when the turn has grown, `now` where it must be kept at once; `view` shows it,
   * and may be another later.
   */
  constructor(conversation, turn, view, grown) {
    Object.assign(this, { conversation, turn, view, grown });
    this.halt = new AbortController();
    /** The next event that is wanted. */
    this.next = 0;
    this.started = null;
    /** The turn before, where it is not known whether the server has kept it. */
    this.before = null;
  }

  /** Follows the turn to its end, which its state then tells; `asked` where the server has it already. */
  async follow(asked = false) {
    const { turn } = this;
    try {
      await this.answer(asked);
      turn.state = "done";
    } catch (error) {
      if (this.halt.signal.aborted || error instanceof Stopped) {
        turn.state = (await this.ended()) ? "done" : "stopped";
      } else {
        turn.state = "failed";
        turn.doubtful = Boolean(error.lost);
        turn.error = error instanceof api.AskError ? error.message : `This page failed: ${error.message}`;
        if (!(error instanceof api.AskError)) console.error(error);
        this.status = error.status;
      }
    }
  }

  /** Ends the turn, here and at the server. */
  stop() {
    this.halt.abort();
  }

  /** Looks whether the server has kept the turn after all, where that was not known. */
  async check() {
    const { conversation, turn } = this;
    if (!turn.doubtful || !conversation.server) return;
    if (await this.kept(this.halt.signal)) {
      turn.state = "done";
      this.view.end();
      // Another question has taken its place.
      if (!conversation.turns.includes(turn)) store.leave(conversation);
    }
    turn.doubtful = false;
  }

  async answer(asked) {
    for (let busy = 0, lost = 0; ; asked = false) {
      try {
        return await (asked ? this.goOn() : this.put());
      } catch (error) {
        const { conversation, turn } = this;
        if (this.halt.signal.aborted) throw error;
        if (GONE[error.code] && conversation.server) {
          store.leave(conversation);
          turn.key = null;
          turn.notice = `${GONE[error.code]} ${FROM_HERE}`;
        } else if (error.code === "conversation_busy" && busy < BUSY_RETRIES) {
          busy += 1;
          await this.sleep(BUSY_WAIT_MS);
        } else if (error instanceof Lost && lost < 1) {
          lost += 1;
          turn.key = null;
          turn.notice = ASKED_AGAIN;
        } else if (error instanceof Lost) {
          throw error.cause ?? new api.AskError("The server has lost this answer, and lost it again.");
        } else {
          throw error;
        }
      }
    }
  }

  /** Puts the question and reads its answer. */
  async put() {
    const { conversation, turn } = this;
    const { signal } = this.halt;
    await this.before?.check();
    turn.asked.model ??= (await api.readiness()).model;
    if (!conversation.server) await this.begin(signal);
    const question = { role: "user", content: turn.question };
    const messages = conversation.kept ? [question] : [...store.messages(conversation), question];
    turn.expects = conversation.kept + messages.length + 1;
    Object.assign(turn, { completion: null, times: null });
    // The key stays the same as long as the server may have the turn.
    turn.key ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
    this.next = 0;
    this.started = performance.now();
    // From here on the server may have the turn, and a page that is loaded again must know that.
    this.grown(true);
    try {
      const body = { ...turn.asked, conversation: conversation.server, messages };
      const response = await api.chat(body, turn.key, signal);
      if (await this.read(response)) return this.finish();
    } catch (error) {
      if (!error.lost) throw error;
      return this.goOn(error);
    }
    return this.goOn();
  }

  /** Begins a conversation at the server: where the turn takes another's place, with all that was before that one. */
  async begin(signal) {
    const { conversation, turn: { instead } } = this;
    const copy = instead && (await api.withoutLast(instead.server, signal).catch(() => null));
    const fits = copy?.messages === instead?.kept - 2;
    if (copy && !fits) api.forget(copy.id);
    conversation.server = fits ? copy.id : await api.begin(signal);
    conversation.kept = fits ? copy.messages : 0;
  }

  /** Goes on with the turn's stream; `trouble` is why that is needed. */
  async goOn(trouble) {
    const { conversation } = this;
    const { signal } = this.halt;
    if (!conversation.server || !this.turn.expects) throw new Lost();
    for (let tries = 0, since = Date.now(); ; tries += 1) {
      const before = this.next;
      try {
        this.foreign = false;
        const response = await api.resume(conversation.server, this.next, signal);
        if (response && (await this.read(response))) return this.finish();
        if (this.next > before) continue;
        if (await this.kept(signal)) return;
        // Only a turn that was stopped leaves a stream without an end.
        throw response && !this.foreign ? new Stopped() : new Lost("", { cause: trouble });
      } catch (error) {
        if (!error.lost) throw error;
        if (this.next > before) {
          [tries, since] = [-1, Date.now()];
          continue;
        }
        if (Date.now() - since > PATIENCE_MS) throw error;
        this.view.wait(true);
        await this.sleep(Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** tries));
      }
    }
  }

  /** Reads events into the turn. True at the answer's end, false where the stream ends before it. */
  async read(response) {
    try {
      for await (const { id, data } of events(response)) {
        const place = id ?? this.next;
        if (place < this.next) continue;
        const chunk = api.chunk(data);
        if (!chunk) return Boolean(this.turn.finish);
        if (!this.isOurs(chunk)) {
          this.foreign = true;
          return false;
        }
        this.take(chunk);
        this.next = place + 1;
      }
      return false;
    } catch (error) {
      if (error instanceof Broken) throw new api.AskError("The connection was lost before the answer's end.", { lost: true });
      throw error;
    }
  }

  /** The stream of a conversation's last turn may be that of the turn before, or of another tab's. */
  isOurs({ id }) {
    const { conversation, turn } = this;
    if (!id) return true;
    turn.completion ??= conversation.turns.some((other) => other.completion === id) ? null : id;
    return turn.completion === id;
  }

  take({ choices: [choice], onegen, usage }) {
    const { turn, view } = this;
    // Parts from an earlier try, or from before the page was reloaded, are dropped, because they come again.
    if (this.next === 0) {
      turn.parts = [];
      turn.finish = null;
      view.reset();
    }
    view.wait(false);
    // One that found only what is too long to be read shows nothing.
    if (onegen?.retrieval?.passages.length) this.add({ retrieval: onegen.retrieval });
    if (choice?.delta.content) {
      if (this.started !== null) turn.times ??= { first: performance.now() - this.started };
      this.add({ text: choice.delta.content });
    }
    if (choice?.delta.annotations) turn.citations = choice.delta.annotations.map((one) => one.url_citation);
    if (choice?.finish_reason) turn.finish = choice.finish_reason;
    if (usage) turn.usage = usage;
    this.grown();
  }

  add(part) {
    const { turn, view } = this;
    const last = turn.parts.at(-1);
    if (part.text && last?.text) last.text += part.text;
    else turn.parts.push({ ...part });
    view.grow(part);
  }

  finish() {
    const { conversation, turn } = this;
    conversation.kept = turn.expects;
    turn.doubtful = false;
    if (this.started !== null) {
      const end = performance.now() - this.started;
      turn.times = { first: end, ...turn.times, end };
    }
  }

  /** Whether the server has kept the turn; then the turn is what it has kept. */
  async kept(signal) {
    const { conversation, turn } = this;
    const there = await api.messages(conversation.server, signal);
    if (there === turn.expects) {
      const { text, annotations, retrievals } = await api.lastAnswer(conversation.server, signal);
      turn.parts = pieces(text, annotations, retrievals);
      turn.citations = annotations;
      turn.finish ??= "stop";
      conversation.kept = there;
      this.view.reset();
      return true;
    }
    // Another tab has gone on with it.
    if (there !== conversation.kept) store.leave(conversation);
    return false;
  }

  /** Has the server end a turn that was stopped. True if it had come to its end before. */
  async ended() {
    const { conversation, turn } = this;
    if (!conversation.server || !turn.expects) return false;
    const signal = AbortSignal.timeout(STOP_MS);
    try {
      await api.stop(conversation.server, signal);
      const kept = await this.kept(signal);
      // The turn may still be on its way to the server, or the server may still be writing it to its files.
      turn.doubtful = !kept;
      return kept;
    } catch {
      turn.doubtful = true;
      return false;
    }
  }

  /** Waits, but returns at once when the network comes back. */
  sleep(ms) {
    const { signal } = this.halt;
    return new Promise((resolve, reject) => {
      setTimeout(resolve, ms);
      addEventListener("online", resolve, { once: true });
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      if (signal.aborted) reject(signal.reason);
    });
  }
}

/**
 * The parts of a turn from its text and its citations, which begin with the first word that was written
 * after a retrieval: that happened before the space in front of it.
 */
function pieces(text, annotations, retrievals) {
  const characters = Array.from(text);
  const parts = [];
  let from = 0;
  retrievals.forEach((retrieval, at) => {
    let to = annotations[at]?.start_index ?? characters.length;
    while (to > from && /\s/.test(characters[to - 1])) to -= 1;
    if (to > from) parts.push({ text: characters.slice(from, to).join("") });
    parts.push({ retrieval });
    from = to;
  });
  if (from < characters.length) parts.push({ text: characters.slice(from).join("") });
  return parts;
}
