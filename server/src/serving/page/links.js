// Which addresses may become links.

/** An address of the web in full, or null: other schemes, `javascript:` among them, are no links. */
export function webAddress(url) {
  try {
    const { protocol, href } = new URL(url);
    return protocol === "https:" || protocol === "http:" ? href : null;
  } catch {
    return null;
  }
}
