// Keeps a growing answer in view.

const ABOVE_QUESTION_PX = 16;
/** What is farther from the end than this is away from it. */
const AWAY_PX = 160;

/**
 * Scrolls `scroller` down as the list `turns` in it grows, until the last question is at the top or
 * somebody scrolls up. `away(is)` hears whether the end is out of view. Gives the function that begins anew.
 */
export function follow(scroller, turns, away) {
  let following = true;
  let reached = 0;
  const end = () => scroller.scrollHeight - scroller.clientHeight;
  const tell = () => away(end() - scroller.scrollTop > AWAY_PX);
  const go = () => {
    const last = turns.lastElementChild;
    if (!following || !last) return tell();
    reached = Math.min(end(), last.offsetTop - ABOVE_QUESTION_PX);
    scroller.scrollTop = reached;
    tell();
  };
  // Text, cards and their passages make it longer, each in its own time.
  new ResizeObserver(go).observe(turns);
  scroller.addEventListener("scroll", () => {
    if (scroller.scrollTop < reached - 1) following = false;
    tell();
  });
  return () => {
    following = true;
    go();
  };
}
