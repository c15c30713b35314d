// Theme and copy buttons, on every page. Loaded first, so that a dark page never flashes white.
"use strict";
(() => {
  const root = document.documentElement;
  const fromHash = () => new URLSearchParams(location.hash.slice(1)).get("theme");
  const stored = () => { try { return localStorage.getItem("mabench-theme"); } catch { return null; } };
  const allowed = (theme) => (theme === "light" || theme === "dark" ? theme : null);
  const set = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme || "system"}`;
  };
  window.theme = {
    get: () => root.dataset.theme || null,
    set(theme) {
      set(allowed(theme));
      try { allowed(theme) ? localStorage.setItem("mabench-theme", theme) : localStorage.removeItem("mabench-theme"); } catch { /* a file may have no storage */ }
      document.dispatchEvent(new Event("themechange"));
    },
    dark: () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches),
  };
  set(allowed(fromHash()) || allowed(stored()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
  document.addEventListener("DOMContentLoaded", () => {
    set(window.theme.get());
    const order = [null, "light", "dark"];
    document.getElementById("theme").addEventListener("click", () =>
      window.theme.set(order[(order.indexOf(window.theme.get()) + 1) % 3]));
    for (const block of document.querySelectorAll("pre.copy")) {
      const button = Object.assign(document.createElement("button"), { className: "btn small", type: "button", textContent: "Copy" });
      button.addEventListener("click", async () => {
        try { await navigator.clipboard.writeText(block.textContent); button.textContent = "Copied"; }
        catch { getSelection().selectAllChildren(block); button.textContent = "Selected"; }
      });
      const box = Object.assign(document.createElement("div"), { className: "copybox" });
      block.replaceWith(box);
      box.append(block, button);
    }
    document.addEventListener("click", (event) => {  // one menu at a time; a click beside it closes it
      for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      const menu = document.querySelector("details.menu[open]");
      if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
    });
  });
})();
