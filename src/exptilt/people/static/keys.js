"use strict"; // Keys of the page; everything works without them.
const keys = document.querySelector("#keys");
if (keys) {
  keys.checked = localStorage.getItem("keys") !== "off";
  keys.addEventListener("change", () => localStorage.setItem("keys", keys.checked ? "on" : "off"));
}
const ranks = [...document.querySelectorAll("[data-rank]")];
const best = () => Math.max(0, ...ranks.map((rank) => Number(rank.value)));
let tied = false;
document.addEventListener("keydown", (event) => {
  const at = event.target, key = event.key;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (at.matches("[data-send]") && key === "Enter" && !event.shiftKey && !event.isComposing) return event.preventDefault(), at.form.requestSubmit();
  if (at.matches("textarea, select")) return key === "Escape" && at.blur();
  if (key === "Enter" && at.matches("input")) return event.preventDefault();
  if ((keys && !keys.checked) || (key === "Enter" && at.matches("a, button, summary"))) return;
  const rank = ranks.find((one) => one.dataset.rank === key);
  const target = document.querySelector(`[data-key="${CSS.escape(key.length === 1 ? key.toLowerCase() : key)}"]`);
  if (!rank && !target && !(ranks.length && "=x".includes(key))) return;
  event.preventDefault();
  if (rank) { if (!rank.value) { rank.value = Math.max(1, best() + (tied ? 0 : 1)); tied = false; } }
  else if (key === "=") tied = true;
  else if (key === "x") ranks.forEach((one) => { one.value = ""; });
  else if (target.matches("details")) {
    target.open = !target.open;
    if (target.open) (target.querySelector("textarea") || target.querySelector("summary")).focus();
  }
  else if (target.matches("fieldset")) {
    const choices = [...target.querySelectorAll("input")];
    choices[(choices.findIndex((one) => one.checked) + 1) % choices.length].click();
  } else target.click();
});
