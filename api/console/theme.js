// Puts the chosen colours on before anything is painted; without a choice the system's apply.
try {
  const chosen = localStorage.getItem("minutebook.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing follows the system.
}
