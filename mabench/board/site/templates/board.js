// @ts-check
// Makes a page that is already whole more convenient: picker, sorting, columns, search, copying, theme. It computes no number.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  if (location.hash.includes("=")) root.classList.add("view"); // painted once it shows what the address names
  const remembered = (key, value) => {
    try {
      if (value === undefined) return localStorage.getItem(key);
      if (value) localStorage.setItem(key, value); else localStorage.removeItem(key);
    } catch { /* a sandboxed frame has no storage */ }
    return null;
  };
  const theme = remembered("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;

  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const DEFAULTS = { data: "", ipc: "", train: "", sort: "", q: "", col: "" };

  /** The view that the address names; unknown keys are dropped. */
  function read() {
    const found = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(Object.keys(DEFAULTS).map((key) => [key, (found.get(key) || "").slice(0, 200)]));
  }

  /** Put the view into the address: a new step of the history for a choice, the same step for typing. */
  function write(state, step) {
    const kept = Object.entries(state).filter(([, value]) => value);
    const hash = kept.length ? "#" + new URLSearchParams(kept).toString() : "";
    if (hash === location.hash) return;
    history[step ? "pushState" : "replaceState"](null, "", hash || location.pathname + location.search);
    if (window.parent !== window) window.parent.postMessage({ hash }, "https://huggingface.co");
  }

  function links() {
    if (window.parent === window) return;
    for (const link of all("a[href^=http]")) { link.target = "_blank"; link.rel = "noopener"; }
  }

  function themes() {
    const button = one("#theme");
    if (!button) return;
    const names = { "": "as the system", light: "light", dark: "dark" };
    const show = () => { button.textContent = "Theme: " + names[root.dataset.theme || ""]; };
    button.hidden = false;
    button.addEventListener("click", () => {
      const order = ["", "light", "dark"];
      const next = order[(order.indexOf(root.dataset.theme || "") + 1) % 3];
      if (next) root.dataset.theme = next; else delete root.dataset.theme;
      remembered("theme", next);
      show();
    });
    show();
  }

  function copying() {
    for (const box of all(".code")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        const text = one("code", box).textContent;
        try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch {
          const range = document.createRange();
          range.selectNodeContents(one("code", box));
          getSelection().removeAllRanges();
          getSelection().addRange(range);
          button.textContent = "Selected";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      box.append(button);
    }
  }

  /** Sort the lines of every group by one column; lines without a value come last. */
  function sort(table, index, descending) {
    for (const body of all("tbody", table)) {
      const lines = all("tr:not(.group)", body).map((line) => {
        const text = line.children[index].dataset.value ?? "";
        return { line, text, value: text === "" ? null : Number(text) };
      });
      lines.sort((a, b) => {
        if (!a.text || !b.text) return Number(!a.text) - Number(!b.text);
        const order = Number.isNaN(a.value) ? a.text.localeCompare(b.text) : a.value - b.value;
        return descending ? -order : order;
      });
      body.append(...lines.map((entry) => entry.line));
    }
    all("thead th", table).forEach((head, place) => {
      if (place === index) head.setAttribute("aria-sort", descending ? "descending" : "ascending"); else head.removeAttribute("aria-sort");
    });
  }

  const keyOf = (head) => [...head.classList].find((name) => name.startsWith("c-")).slice(2);

  /** What stands before a value on a phone, where the table has no head. */
  function labels(table) {
    all("thead th", table).forEach((head, place) => {
      if (!head.matches(".c-network, .c-extra")) return;
      for (const line of all("tbody tr:not(.group)", table)) line.children[place].dataset.label = head.textContent;
    });
  }

  function headers(table, state) {
    const buttons = all("thead th[data-sort]", table).map((head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.tabIndex = -1;
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.dataset.sort === "down" ? "descending" : "ascending";
        const again = head.getAttribute("aria-sort") === first;
        const descending = (first === "descending") !== again;
        state.sort = (descending ? "-" : "") + keyOf(head);
        sort(table, [...head.parentNode.children].indexOf(head), descending);
        write(state, true);
      });
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const shown = buttons.filter((other) => other.offsetParent);
        const next = shown[(shown.indexOf(button) + step + shown.length) % shown.length];
        for (const other of buttons) other.tabIndex = other === next ? 0 : -1;
        next.focus();
        event.preventDefault();
      });
      return button;
    });
    if (buttons.length) buttons[0].tabIndex = 0;
  }

  function applySort(table, state, family) {
    const wanted = state.sort || (family ? "-" + family : "rank");
    const key = wanted.replace(/^-/, "");
    const head = all("thead th[data-sort]", table).find((cell) => keyOf(cell) === key);
    if (head && (state.sort || family || table.dataset.sorted)) {
      sort(table, [...head.parentNode.children].indexOf(head), wanted.startsWith("-"));
      table.dataset.sorted = "yes";
    }
  }

  function pick(state) {
    const form = one("#picker");
    if (!form) return;
    for (const name of ["data", "ipc", "train"]) {
      const field = form.elements[name];
      const known = [...field.options].some((option) => option.value === state[name]);
      field.value = known ? state[name] : field.options[0].value;
      if (!known) state[name] = "";
    }
    const data = form.elements.data.value, ipc = form.elements.ipc.value;
    const [track, family] = form.elements.train.value.split("/");
    let shown = 0;
    for (const block of all(".block")) {
      const fits = block.dataset.dataset === data && (block.classList.contains("waiting")
        || (block.dataset.track === track && (!ipc || block.dataset.ipc === ipc)));
      block.hidden = !fits;
      if (fits && !block.classList.contains("waiting")) shown += 1;
      const table = fits && one("table.board", block);
      if (!table) continue;
      for (const cell of all(".picked", table)) cell.classList.remove("picked");
      if (family) for (const cell of all(`.c-${CSS.escape(family)}`, table)) cell.classList.add("picked");
      applySort(table, state, family);
    }
    answer(form, data, ipc, family, shown);
  }

  function answer(form, data, ipc, family, shown) {
    const place = one("#answer");
    const cells = family && ipc ? all(`[data-answer="${CSS.escape(family)}/${CSS.escape(ipc)}"]`) : [];
    place.textContent = cells.length ? cells[0].dataset.sentence
      : shown ? "" : "No set has been evaluated for this yet.";
  }

  function columns(state, tables) {
    const menu = one("#columns");
    if (!menu || !tables.length) return;
    const known = new Map();
    for (const table of tables) {
      for (const head of all("thead th.c-network, thead th.c-extra", table)) known.set(keyOf(head), head.textContent.trim());
    }
    const box = one("div", menu);
    for (const [key, title] of known) {
      const label = document.createElement("label"), input = document.createElement("input");
      input.type = "checkbox";
      input.value = key;
      label.append(input, title);
      box.append(label);
      input.addEventListener("change", () => {
        state.col = all("input:checked", box).map((entry) => entry.value).join(" ");
        showColumns(state);
        write(state, true);
      });
    }
  }

  function showColumns(state) {
    const wanted = new Set(state.col.split(" ").filter(Boolean));
    for (const input of all("#columns input")) input.checked = wanted.has(input.value);
    for (const cell of all(".board .c-network, .board .c-extra")) cell.classList.toggle("on", wanted.has(keyOf(cell)));
  }

  /** Search every set of the board; the index is fetched when somebody searches. */
  function search(state) {
    const field = one("#search"), found = one("#found");
    if (!field) return () => {};
    let asked = false;
    const show = () => {
      const words = field.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
      for (const line of all("tr[data-words]")) line.hidden = !words.every((word) => line.dataset.words.includes(word));
      found.hidden = !words.length;
      if (!words.length || !window.INDEX) return;
      const hits = window.INDEX.filter((entry) => words.every((word) => entry.words.includes(word)));
      const list = document.createElement("ul"), head = document.createElement("p");
      head.textContent = `${hits.length} of ${window.INDEX.length} results on the whole board` + (hits.length > 40 ? ", the first 40:" : ":");
      head.setAttribute("role", "status");
      for (const entry of hits.slice(0, 40)) {
        const item = document.createElement("li"), link = document.createElement("a");
        link.href = document.body.dataset.root + entry.href;
        link.textContent = entry.title;
        item.append(link);
        list.append(item);
      }
      found.replaceChildren(head, list);
    };
    const load = () => {
      if (asked) return;
      asked = true;
      const script = document.createElement("script");
      script.src = document.body.dataset.root + "assets/index.js";
      script.addEventListener("load", show);
      document.head.append(script);
    };
    field.addEventListener("focus", load);
    field.addEventListener("input", () => { state.q = field.value; load(); show(); write(state, false); });
    return () => { field.value = state.q; if (state.q) load(); show(); };
  }

  document.addEventListener("DOMContentLoaded", () => {
    const state = read(), tables = all("table.board");
    for (const table of tables) { labels(table); headers(table, state); }
    columns(state, tables);
    if (tables.length && one("#tools")) one("#tools").hidden = false;
    const find = search(state);
    const show = () => {
      pick(state);
      if (!one("#picker")) for (const table of tables) applySort(table, state, "");
      showColumns(state);
      find();
    };
    const form = one("#picker");
    if (form) {
      form.hidden = false;
      form.addEventListener("change", () => {
        for (const name of ["data", "ipc", "train"]) {
          const field = form.elements[name];
          state[name] = field.selectedIndex ? field.value : "";
        }
        state.sort = "";
        pick(state);
        write(state, true);
      });
      form.addEventListener("submit", (event) => event.preventDefault());
    }
    const back = () => { Object.assign(state, read()); show(); };
    addEventListener("popstate", back);
    addEventListener("hashchange", back);
    show();
    root.classList.add("ready");
    links();
    themes();
    copying();
    document.body.dataset.ready = "yes";
  });
})();
