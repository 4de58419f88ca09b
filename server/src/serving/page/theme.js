// Before anything is drawn: the colours that were chosen here last, else the system's.
try {
  const chosen = localStorage.getItem("onegen.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is forbidden: the system's colours it is.
}
