// Server-sent events as they come over a connection.

/** The connection is broken. */
export class Broken extends Error {}

/** A working server is never silent for so long: it sends a comment every 15 s. */
const SILENCE_MS = 35_000;
const WATCH_MS = 2_000;

/**
 * The events of a response, `{id, data}`; the id is null where the server gave none. Comments are left
 * out. Throws where the connection breaks, or is silent for so long that it must be broken: that of a
 * machine that has slept is, and nobody tells.
 */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let heard = Date.now();
  let broken = null;
  const broke = new Promise((_, reject) => (broken = reject));
  broke.catch(() => {});
  const watch = setInterval(() => {
    if (Date.now() - heard > SILENCE_MS) broken(new Broken());
  }, WATCH_MS);
  // A connection from before the network came back is dead.
  const online = () => broken(new Broken());
  addEventListener("online", online);
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await Promise.race([reader.read(), broke]);
      if (done) return;
      heard = Date.now();
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event) yield event;
      }
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Broken();
  } finally {
    clearInterval(watch);
    removeEventListener("online", online);
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const data = [];
  let id = null;
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    if (/^id: ?\d+$/.test(line)) id = Number(line.slice(3));
  }
  return data.length ? { id, data: data.join("\n") } : null;
}
