// Keeping the answer that comes in view.

const ABOVE_QUESTION_PX = 16;

/**
 * Scrolls `scroller` down as the list `turns` in it grows, until the last question is at the top or
 * somebody scrolls up. Gives the function that begins anew.
 */
export function follow(scroller, turns) {
  let following = true;
  let reached = 0;
  const go = () => {
    const last = turns.lastElementChild;
    if (!following || !last) return;
    const end = scroller.scrollHeight - scroller.clientHeight;
    reached = Math.min(end, last.offsetTop - ABOVE_QUESTION_PX);
    scroller.scrollTop = reached;
  };
  // Text, cards and their passages make it longer, each in its own time.
  new ResizeObserver(go).observe(turns);
  scroller.addEventListener("scroll", () => {
    if (scroller.scrollTop < reached - 1) following = false;
  });
  return () => {
    following = true;
    go();
  };
}
