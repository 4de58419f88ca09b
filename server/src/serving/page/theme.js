// Runs before anything is drawn: sets the colours that were last chosen here, or the system's.
try {
  const chosen = localStorage.getItem("onegen.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // If storage is forbidden, the system's colours are used.
}
