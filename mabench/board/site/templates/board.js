// The board: which table, which rows, which columns, what is compared. All of it lives in the address, and is read back from it.
"use strict";
(() => {
  const BOARD = window.BOARD;
  const $ = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {  // text is only ever set as text
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) name in element ? (element[name] = value) : element.setAttribute(name, value);
    element.append(...children.filter((c) => c !== null && c !== undefined));
    return element;
  };
  const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(2));
  const signed = (value) => (value === null || value === undefined ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(100 * value).toFixed(2));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const inert = (value) => (typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : value);
  const MAX_PICKS = 4;
  const narrow = () => window.innerWidth < 640;

  // ---- rows
  const rows = BOARD.rows.map((row) => ({
    ...row, pm: row.std, status_kind: row.status.split(":")[0],
    haystack: [row.title, row.authors, row.key, row.where, row.tier, row.decode, ...row.sources].join(" ").toLowerCase(),
  }));
  const FACETS = [
    { key: "tier", name: "Trust", values: (row) => [row.tier] },
    { key: "labels", name: "Labels", values: (row) => [row.labels] },
    { key: "decode", name: "Decode", values: (row) => [row.decode || "unknown"] },
    { key: "source", name: "Source networks", values: (row) => (row.sources.length ? row.sources : ["not named"]) },
    { key: "status", name: "Status", values: (row) => [row.status_kind] },
  ];

  // ---- state and address
  const suitesOf = (dataset) => Object.keys(BOARD.suites).filter((s) => !dataset || BOARD.suites[s].dataset === dataset).sort();
  const datasets = [...new Set(Object.values(BOARD.suites).map((s) => s.dataset))].sort();
  const tracksOf = (suite) => (BOARD.suites[suite]?.track_order || []).filter((t) => rows.some((r) => r.suite === suite && r.track === t));
  const ipcsOf = (suite, track) => [...new Set(rows.filter((r) => r.suite === suite && r.track === track).map((r) => r.ipc))].sort((a, b) => a - b);
  let state;

  const busiest = (values, count) => [...values].sort((a, b) => count(b) - count(a))[0];
  const weight = (test) => rows.filter(test).reduce((sum, r) => sum + (r.rank !== null ? 1000 : r.tier !== "reported" ? 1 : 0), 0);  // ranked first, then submitted
  const fit = (s) => {  // whatever an address says, the state names tables that exist
    s.dataset = datasets.includes(s.dataset) ? s.dataset : "";
    const suites = suitesOf(s.dataset);
    if (!suites.includes(s.suite)) s.suite = busiest(suites, (suite) => weight((r) => r.suite === suite)) || "";
    const tracks = tracksOf(s.suite);
    if (!tracks.includes(s.track)) s.track = tracks[0] || "";
    const ipcs = ipcsOf(s.suite, s.track);
    if (s.ipc !== "all" && !ipcs.includes(Number(s.ipc))) s.ipc = String(busiest(ipcs, (ipc) => weight((r) => r.suite === s.suite && r.track === s.track && r.ipc === ipc)) ?? "all");
    const here = new Set(rows.filter((r) => r.suite === s.suite && r.track === s.track).map((r) => r.key));
    s.cmp = [...new Set(s.cmp)].filter((key) => here.has(key)).slice(0, MAX_PICKS);
    if (!PLOTS.some((p) => p.value === s.plot)) s.plot = "";
    return s;
  };
  const read = () => {
    const p = new URLSearchParams(location.hash.slice(1));
    const sort = p.get("sort") || "";
    return fit({
      dataset: p.get("dataset") || "", suite: p.get("suite") || "", track: p.get("track") || "", ipc: p.get("ipc") || "", q: p.get("q") || "",
      facets: Object.fromEntries(FACETS.map((f) => [f.key, p.getAll(f.key)])),
      sort: sort ? { column: sort.replace(/^-/, ""), dir: sort.startsWith("-") ? "desc" : "asc" } : null,
      cols: p.has("col") ? p.getAll("col") : null, cmp: p.getAll("cmp"), view: p.get("view") || "", plot: p.get("plot") || "",
    });
  };
  const address = () => {
    const p = new URLSearchParams();
    for (const key of ["dataset", "suite", "track", "ipc", "q"]) if (state[key]) p.set(key, state[key]);
    for (const f of FACETS) for (const value of state.facets[f.key]) p.append(f.key, value);
    if (state.sort) p.set("sort", (state.sort.dir === "desc" ? "-" : "") + state.sort.column);
    for (const col of state.cols || []) p.append("col", col);
    for (const key of state.cmp) p.append("cmp", key);
    if (state.view) p.set("view", state.view);
    if (state.plot) p.set("plot", state.plot);
    if (window.theme.get()) p.set("theme", window.theme.get());
    return `#${p.toString().replaceAll("%40", "@")}`;
  };
  const save = () => { if (address() !== location.hash) history.replaceState(null, "", address()); };

  // ---- columns
  const track = () => BOARD.suites[state.suite].tracks[state.track];
  const evaluators = () => track().evaluators.map((e) => e.name);
  const here = () => rows.filter((r) => r.suite === state.suite && r.track === state.track && (state.ipc === "all" || r.ipc === Number(state.ipc)));
  const columnKeys = () => [...BOARD.columns.map((c) => c.key), ...evaluators().map((e) => `e:${e}`)];
  const defaultShown = (key) => {
    if (narrow()) return ["rank", "title", "score"].includes(key);
    if (key === "ipc") return state.ipc === "all";
    if (key === "labels") return new Set(here().map((r) => r.labels)).size > 1;
    if (key === "lift") return here().some((r) => r.lift !== null);
    if (key === "diverged") return here().some((r) => r.diverged > 0);
    if (key.startsWith("e:")) return true;
    return BOARD.columns.find((c) => c.key === key)?.shown;
  };
  const isShown = (key) => (state.cols ? state.cols.includes(key) : defaultShown(key));
  const bottom = { alignEmptyValues: "bottom" };
  const two = (main, small) => make("div", {}, make("span", { textContent: main }), small ? make("div", { className: "pm", textContent: small }) : null);
  const inline = (main, small, strong) => make("span", {}, make("span", { className: strong ? "cell-main" : "", textContent: main }), small ? make("span", { className: "pm", textContent: ` ${small}` }) : null);
  const pct = (value) => (value === null ? null : Number((100 * value).toFixed(4)));

  const KINDS = {
    rank: { width: 92, sorter: "number", sorterParams: bottom, formatter: (cell) => {
      const row = cell.getData();
      if (row.rank === null) return make("span", { className: "pm", textContent: "–", title: `not ranked: ${row.status}` });
      const interval = row.rank_low === null ? "no interval" : `${row.rank_low}–${row.rank_high}`;
      return inline(String(row.rank), interval, true);
    } },
    title: { minWidth: 210, widthGrow: 3, sorter: "string", formatter: (cell) => {
      const row = cell.getData(), links = [];
      if (row.paper) links.push(make("a", { href: row.paper, rel: "nofollow noopener noreferrer", textContent: "paper" }));
      if (row.code) links.push(make("a", { href: row.code, rel: "nofollow noopener noreferrer", textContent: "code" }));
      if (row.where) links.push(make("span", { textContent: row.where, title: row.where }));
      if (row.rank === null && row.tier !== "reported") links.push(make("span", { textContent: row.status }));
      const name = row.tier === "reported" ? make("span", { className: "cell-main", textContent: row.title }) : make("a", { className: "cell-main", href: `sets/${row.key}/index.html`, textContent: row.title });
      return make("div", {}, make("div", { className: "method" }, name), links.length ? make("div", { className: "method-links" }, ...links) : null);
    } },
    tier: { width: 114, sorter: "string", formatter: (cell) => make("span", { className: `tier tier-${cell.getValue()}`, textContent: cell.getValue(), title: BOARD.tiers[cell.getValue()] }) },
    percent: { width: 105, hozAlign: "right", sorter: "number", sorterParams: bottom, accessorDownload: pct, formatter: (cell) => {
      const std = cell.getField() === "score" ? cell.getData().std : null;
      return inline(percent(cell.getValue()), std === null ? "" : `± ${percent(std)}`, cell.getField() === "score");
    } },
    worst: { width: 120, hozAlign: "right", sorter: "number", sorterParams: bottom, accessorDownload: pct, formatter: (cell) => two(percent(cell.getValue()), cell.getData().worst_evaluator.replace(/-(scratch|pretrained)$/, "")) },
    points: { width: 90, hozAlign: "right", sorter: "number", sorterParams: bottom, accessorDownload: pct, formatter: (cell) => signed(cell.getValue()) },
    recovery: { width: 115, hozAlign: "right", sorter: "number", sorterParams: bottom, accessorDownload: pct, formatter: (cell) => (cell.getValue() === null ? "–" : (100 * cell.getValue()).toFixed(1)) },
    count: { width: 95, hozAlign: "right", sorter: "number", sorterParams: bottom, formatter: (cell) => (cell.getValue() === null ? "–" : cell.getValue().toLocaleString("en")) },
    bytes: { width: 104, hozAlign: "right", sorter: "number", sorterParams: bottom, formatter: (cell) => (cell.getValue() === null ? "–" : cell.getValue().toLocaleString("en")) },
    runs: { width: 95, hozAlign: "right", sorter: "number", formatter: (cell) => (cell.getData().tier === "reported" ? String(cell.getValue() || "–") : `${cell.getValue()} of ${cell.getData().planned}`) },
    text: { width: 120, sorter: "string", accessorDownload: inert, formatter: (cell) => make("span", { textContent: cell.getValue() || "–", title: cell.getValue() || "" }) },
    list: { width: 150, sorter: (a, b) => a.join().localeCompare(b.join()), accessorDownload: (value) => inert(value.join(" ")), formatter: (cell) => make("span", { textContent: cell.getValue().join(", ") || "–", title: cell.getValue().join(", ") }) },
  };
  const head = (title, note) => () => {
    const why = make("button", { className: "why", type: "button", textContent: "?" });
    why.setAttribute("aria-label", `How to read ${title}`);
    why.addEventListener("click", (event) => {
      event.stopPropagation();
      const box = $("note"), place = why.getBoundingClientRect();
      box.replaceChildren(make("strong", { textContent: title }), make("div", { textContent: note }));
      box.showPopover();
      box.style.left = `${Math.max(8, Math.min(place.left, window.innerWidth - box.offsetWidth - 8))}px`;
      box.style.top = `${Math.min(place.bottom + 6, window.innerHeight - box.offsetHeight - 8)}px`;
    });
    return make("span", { className: "head" }, make("button", { className: "sort", type: "button", textContent: title }), why);
  };
  const columns = () => {
    const data = here();
    const fixed = !narrow();
    const out = [{ field: "pick", title: "Compare", width: fixed ? 44 : 34, headerSort: false, frozen: fixed, download: false, titleFormatter: () => make("span", { textContent: "", title: "Compare" }), formatter: (cell) => {
      const row = cell.getData();
      const box = make("input", { type: "checkbox", checked: state.cmp.includes(row.key), disabled: !state.cmp.includes(row.key) && state.cmp.length >= MAX_PICKS });
      box.setAttribute("aria-label", `Compare ${row.title}`);
      box.dataset.pick = row.key;
      box.addEventListener("change", () => pick(row.key, box.checked));
      return box;
    } }];
    for (const column of BOARD.columns) {
      out.push({ field: column.key, title: column.title, frozen: fixed && ["rank", "title"].includes(column.key), headerHozAlign: KINDS[column.kind].hozAlign, visible: isShown(column.key), titleFormatter: head(column.title, column.note), ...KINDS[column.kind], ...(column.key === "title" ? { accessorDownload: inert, minWidth: fixed ? 230 : 118 } : {}), ...(column.key === "score" ? { width: fixed ? 125 : 84 } : {}), ...(column.key === "rank" && !fixed ? { width: 56 } : {}) });
    }
    const values = data.filter((r) => r.tier !== "reported").flatMap((r) => Object.values(r.evaluators).map((e) => e.mean));
    const low = values.reduce((a, b) => Math.min(a, b), 1), span = values.reduce((a, b) => Math.max(a, b), 0) - low || 1, planned = BOARD.suites[state.suite].seeds.length;
    for (const name of evaluators()) {
      const short = name.replace(/-(scratch|pretrained)$/, "");
      out.push({
        field: `e:${name}`, title: name, width: Math.max(94, 8.6 * short.length + 44), hozAlign: "right", headerHozAlign: "right", visible: isShown(`e:${name}`), sorter: "number", sorterParams: bottom,
        titleFormatter: head(short, `${name}. ${BOARD.evaluator_note}`), accessorDownload: pct,
        formatter: (cell) => {
          const entry = cell.getData().evaluators[name];
          if (!entry) return "–";
          const box = make("div", { className: "heat", title: entry.last === null ? "" : `last look ${percent(entry.last)} %, ${entry.runs} runs${entry.diverged ? `, ${entry.diverged} diverged: chance level` : ""}` }, make("span", { textContent: percent(entry.mean) + (entry.diverged ? "†" : "") }), entry.std === null ? null : make("span", { className: "pm", textContent: `± ${percent(entry.std)}` }));
          box.style.setProperty("--h", ((entry.mean - low) / span).toFixed(3));
          if (entry.runs !== null && entry.runs < planned && cell.getData().tier !== "reported") box.classList.add("few");
          return box;
        },
      });
    }
    return out;
  };

  // ---- the table
  let table = null, built = "", ready = false;
  let asked = "", words = [];
  const matches = (row) => {
    if (asked !== state.q) { asked = state.q; words = asked.trim().toLowerCase().split(/\s+/).filter(Boolean); }
    if (!words.every((word) => row.haystack.includes(word))) return false;
    return FACETS.every((f) => !state.facets[f.key].length || f.values(row).some((v) => state.facets[f.key].includes(v)));
  };
  const shownRows = () => here().filter(matches);
  const tableData = () => here().map((row) => ({ ...row, ...Object.fromEntries(evaluators().map((e) => [`e:${e}`, row.evaluators[e]?.mean ?? null])) }));
  const renderTable = () => {
    const wanted = JSON.stringify([state.suite, state.track, state.ipc, narrow()]);
    if (wanted !== built) {
      built = wanted;
      ready = false;
      if (table) table.destroy();
      table = new window.Tabulator("#table", {
        data: tableData(), columns: columns(), index: "key", layout: "fitColumns", maxHeight: "76vh", nestedFieldSeparator: false, resizableColumnFit: false, columnHeaderVertAlign: "middle",
        placeholder: () => make("span", { textContent: "No row fits. Clear the filters, or choose another table." }),
        initialSort: state.sort && columnKeys().includes(state.sort.column) ? [state.sort] : [], headerSortTristate: true, renderVerticalBuffer: 240, columnDefaults: { headerTooltip: false, vertAlign: "middle", resizable: "header" },
        rowFormatter: (row) => {
          const data = row.getData(), list = row.getElement().classList;
          list.toggle("unranked", data.rank === null && data.tier !== "reported");
          list.toggle("reported", data.tier === "reported");
          list.toggle("picked", state.cmp.includes(data.key));
        },
      });
      const mine = table;
      table.on("tableBuilt", () => { ready = true; if (mine === table) { refilter(); document.body.dataset.ready = "1"; } });
      table.on("dataSorted", (sorters) => {
        if (mine !== table || !ready) return;
        state.sort = sorters.length ? { column: sorters[0].field, dir: sorters[0].dir } : null;
        save();
      });
    } else if (ready) {
      refilter();
    }
    renderCount();
  };
  const refilter = () => { table.setFilter(matches); renderCount(); };
  const renderCount = () => {
    const all = here(), shown = all.filter(matches);
    $("count").textContent = `${shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} rows, ${shown.filter((r) => r.rank !== null).length.toLocaleString("en")} ranked`;
    $("clear").hidden = !state.q && FACETS.every((f) => !state.facets[f.key].length);
  };

  // ---- navigation, facets, columns
  const renderNav = () => {
    if (datasets.length > 1) {
      const select = make("select", { className: "btn" }, make("option", { value: "", textContent: "all datasets" }), ...datasets.map((d) => make("option", { value: d, textContent: d })));
      select.setAttribute("aria-label", "Dataset");
      select.value = state.dataset;
      select.addEventListener("change", () => go({ dataset: select.value }));
      $("datasets").replaceChildren(select);
    }
    const count = (test) => rows.filter(test).length;
    window.tabs($("suites"), "Suite", suitesOf(state.dataset).map((s) => ({ value: s, text: s, count: count((r) => r.suite === s), title: BOARD.suites[s].title })), state.suite, (suite) => go({ suite }));
    window.tabs($("tracks"), "Track", tracksOf(state.suite).map((t) => ({ value: t, text: t })), state.track, (t) => go({ track: t }));
    const ipcs = ipcsOf(state.suite, state.track);
    window.tabs($("ipcs"), "Images per class", [...ipcs.map((i) => ({ value: String(i), text: String(i), count: count((r) => r.suite === state.suite && r.track === state.track && r.ipc === i) })), ...(ipcs.length > 1 ? [{ value: "all", text: "all" }] : [])], state.ipc, (ipc) => go({ ipc }));
    const suite = BOARD.suites[state.suite], t = track();
    $("about").replaceChildren(
      make("summary", { textContent: suite.title }), make("p", { textContent: suite.measures }),
      make("p", { className: "small faint", textContent: `${suite.dataset}; ${t.evaluators.length} evaluators x ${suite.seeds.length} seeds; ${t.epochs.toLocaleString("en")} epochs; counts: ${t.score === "best" ? `best look at the test split, one every ${t.looks_every} epochs` : "last look at the test split"}; std: ${suite.std}; ${state.suite}, digest ${suite.digest.slice(0, 12)}` }));
  };
  const checkbox = (text, checked, change, count) => {
    const box = make("input", { type: "checkbox", checked });
    box.addEventListener("change", () => change(box.checked));
    return make("label", {}, box, make("span", { textContent: text }), count === undefined ? null : make("span", { className: "count", textContent: String(count) }));
  };
  const renderFacets = () => {
    const data = here(), open = new Set([...document.querySelectorAll("#facets details[open]")].map((d) => d.dataset.facet));
    $("facets").replaceChildren(...FACETS.map((facet) => {
      const counts = new Map();
      for (const row of data) for (const value of facet.values(row)) counts.set(value, (counts.get(value) || 0) + 1);
      const chosen = state.facets[facet.key];
      for (const value of chosen) if (!counts.has(value)) counts.set(value, 0);
      const menu = make("details", { className: `menu${chosen.length ? " on" : ""}`, open: open.has(facet.key) }, make("summary", { textContent: chosen.length ? `${facet.name}: ${chosen.length}` : facet.name }),
        make("div", { className: "list" }, ...[...counts].sort((a, b) => (a[0] < b[0] ? -1 : 1)).map(([value, n]) => checkbox(value, chosen.includes(value), (on) => {
          state.facets[facet.key] = on ? [...chosen, value] : chosen.filter((v) => v !== value);
          go({});
          const boxes = document.querySelectorAll(`#facets details[data-facet="${facet.key}"] label`);
          [...boxes].find((l) => l.children[1].textContent === value)?.querySelector("input").focus();
        }, n))));
      menu.dataset.facet = facet.key;
      return menu;
    }));
  };
  const renderColumns = () => {
    const toggle = (key) => (on) => {
      const shown = columnKeys().filter(isShown);
      state.cols = on ? [...shown, key] : shown.filter((k) => k !== key);
      on ? table.showColumn(key) : table.hideColumn(key);
      save();
    };
    $("columns").querySelector(".list").replaceChildren(
      ...BOARD.columns.map((c) => checkbox(c.title, isShown(c.key), toggle(c.key))), make("h3", { textContent: "Evaluators" }),
      ...evaluators().map((e) => checkbox(e, isShown(`e:${e}`), toggle(`e:${e}`))));
  };

  // ---- comparing
  const byKey = (key) => rows.find((r) => r.suite === state.suite && r.track === state.track && r.key === key);
  const named = (list) => {
    const titles = list.map((r) => r.title);
    return new Map(list.map((r) => [r.key, titles.filter((t) => t === r.title).length > 1 || list.some((o) => o !== r && o.title === r.title) ? `${r.title} (${r.key})` : r.title]));
  };
  const pick = (key, on) => {
    state.cmp = on ? [...state.cmp, key].slice(0, MAX_PICKS) : state.cmp.filter((k) => k !== key);
    if (state.cmp.length < 2) state.view = "";
    save();
    renderPicks();
    renderCompare();
    renderPlot();
  };
  const renderPicks = () => {
    const full = state.cmp.length >= MAX_PICKS;
    for (const box of document.querySelectorAll("input[data-pick]")) {
      box.checked = state.cmp.includes(box.dataset.pick);
      box.disabled = full && !box.checked;
      box.closest(".tabulator-row")?.classList.toggle("picked", box.checked);
    }
    $("tray").hidden = !state.cmp.length;
    if (!state.cmp.length) return $("tray").replaceChildren();
    const go2 = make("button", { className: "btn primary", type: "button", id: "compare-go", disabled: state.cmp.length < 2, textContent: state.cmp.length < 2 ? "Pick one more to compare" : `Compare ${state.cmp.length}` });
    go2.addEventListener("click", () => { state.view = "compare"; save(); renderCompare(); $("compare").scrollIntoView({ block: "start" }); $("compare").focus({ preventScroll: true }); });
    const clear = make("button", { className: "btn", type: "button", textContent: "Clear" });
    clear.addEventListener("click", () => { state.cmp = []; state.view = ""; save(); renderPicks(); renderCompare(); renderPlot(); });
    $("tray").replaceChildren(...state.cmp.map((key) => {
      const remove = make("button", { type: "button", textContent: "×" });
      remove.setAttribute("aria-label", `Remove ${byKey(key).title}`);
      remove.addEventListener("click", () => pick(key, false));
      return make("span", { className: "chip" }, make("span", { textContent: byKey(key).title }), remove);
    }), go2, clear);
  };
  // Mean difference over common seeds with its 95 % t interval, as mabench.scoring.paired.
  const paired = (a, b) => {
    const differences = Object.keys(a).filter((seed) => seed in b).map((seed) => a[seed] - b[seed]);
    const n = differences.length;
    if (!n) return null;
    const m = mean(differences);
    const t = BOARD.t95[Math.min(n, BOARD.t95.length - 1)];
    const half = n < 2 ? null : t * Math.sqrt(differences.reduce((s, d) => s + (d - m) ** 2, 0) / (n - 1)) / Math.sqrt(n);
    return { mean: m, half, n };
  };
  const panel = (row) => {  // per seed, the mean over evaluators
    const runs = evaluators().map((e) => row.evaluators[e]?.seeds || {});
    return Object.fromEntries(Object.keys(runs[0] || {}).filter((seed) => runs.every((r) => seed in r)).map((seed) => [seed, mean(runs.map((r) => r[seed]))]));
  };
  const accuracyRows = (list) => {
    const names = named(list);
    return list.flatMap((row) => evaluators().filter((e) => row.evaluators[e]).map((e) => {
      const { mean: m, half_width: half, runs } = row.evaluators[e];
      return { set: names.get(row.key), evaluator: e, mean: 100 * m, half: half === null ? null : 100 * half, low: half === null ? null : 100 * Math.max(0, m - half), high: half === null ? null : 100 * Math.min(1, m + half), runs };
    }));
  };
  const renderCompare = () => {
    const box = $("compare"), list = state.cmp.map(byKey);
    box.hidden = state.view !== "compare" || list.length < 2;
    if (box.hidden) return box.replaceChildren();
    const names = named(list), [first, ...others] = list, chart = make("div", { className: "chart", id: "compare-chart" });
    const cell = (found) => {
      if (!found) return make("td", { className: "r", textContent: "no common seeds" });
      const apart = found.half !== null && Math.abs(found.mean) > found.half;
      return make("td", { className: "r" }, apart ? make("strong", { textContent: signed(found.mean) }) : signed(found.mean), make("span", { className: "faint", textContent: found.half === null ? "" : ` ± ${percent(found.half)}` }), make("span", { className: "faint", textContent: apart ? " apart" : "" }));
    };
    const line = (label, of, className) => make("tr", { className }, make("td", { textContent: label }), ...others.map((other) => cell(paired(of(first), of(other)))));
    const head = make("tr", {}, make("th", { textContent: "Evaluator" }), ...others.map((other) => make("th", { className: "r", textContent: `minus ${names.get(other.key)}` })));
    const close = make("button", { className: "btn", type: "button", textContent: "Close" });
    close.addEventListener("click", () => { state.view = ""; save(); renderCompare(); $("table").focus(); });
    box.replaceChildren(
      make("div", { className: "row" }, make("h2", { textContent: `Comparison on ${state.suite}, ${state.track}` }), close),
      make("p", { className: "small faint", textContent: "Accuracy by evaluator; whiskers are 95 % t intervals over seeds." }), chart,
      make("h3", { textContent: `${names.get(first.key)}: paired differences` }),
      make("p", { className: "small faint", textContent: "In points, seed by seed: the same seed gives the same initial weights and order. ± is the 95 % t interval; apart: it does not reach 0. A paper's row has no seeds to pair. With many evaluators one in twenty is apart by chance." }),
      make("div", { className: "scroll" }, make("table", { className: "plain", id: "paired" }, make("thead", {}, head), make("tbody", {}, ...evaluators().map((e) => line(e, (row) => row.evaluators[e]?.seeds || {}, "")), ...(evaluators().length > 1 ? [line("panel mean", panel, "sum")] : [])))));
    window.charts.bars(chart, accuracyRows(list), evaluators());
  };

  // ---- plots
  const best = (n) => { const list = shownRows().filter((r) => r.rank !== null); return [...list].sort((a, b) => b.score - a.score).slice(0, n); };
  const picked = (n) => (state.cmp.length ? state.cmp.map(byKey) : best(n));
  const whose = (n) => (state.cmp.length ? "The rows picked for comparison." : `The ${n} best ranked rows of this view; tick rows to choose others.`);
  const PLOTS = [
    { value: "bytes", text: "Accuracy and bytes", note: () => "Every row of this suite and track that fits the filters, all budgets. The dashed line is the Pareto front of ranked rows: no smaller set is better. Hollow: not ranked.", draw: (element) => {
      const list = rows.filter((r) => r.suite === state.suite && r.track === state.track && matches(r) && r.score !== null && r.bytes);
      const front = new Set();
      let top = -1;
      for (const row of list.filter((r) => r.rank !== null).sort((a, b) => a.bytes - b.bytes || b.score - a.score)) if (row.score > top) { top = row.score; front.add(row.key); }
      if (list.length) return window.charts.pareto(element, list.map((r) => ({ set: r.title, score: 100 * r.score, bytes: r.bytes, ipc: r.ipc, tier: r.tier, status: r.status, ranked: r.rank !== null, front: front.has(r.key) })));
      return nothing(element);
    } },
    { value: "profile", text: "Profile", note: () => `Accuracy by evaluator, with 95 % intervals. ${whose(5)}`, draw: (element) => { const list = picked(5); return list.length ? window.charts.profile(element, accuracyRows(list), evaluators()) : nothing(element); } },
    { value: "bestlast", text: "Best and last", note: () => (track().score === "best" ? "How much choosing the best look on the test split adds: the distance from the dashed line." : "This suite counts the last look, so every row is on the line."), draw: (element) => {
      const list = shownRows().filter((r) => r.score !== null && r.last !== null);
      if (list.length) return window.charts.bestlast(element, list.map((r) => ({ set: r.title, score: 100 * r.score, last: 100 * r.last, ipc: r.ipc })));
      return nothing(element);
    } },
    { value: "curves", text: "Curves", note: () => `Test accuracy at every look, mean over seeds, band from lowest to highest. ${whose(3)}`, draw: async (element) => {
      const list = picked(3).filter((r) => r.tier !== "reported"), names = named(list), name = `${state.suite}/${state.track}`;
      const found = await Promise.all(list.map(async (r) => window.charts.curveRows((await window.charts.setCurves(r.key))[name], names.get(r.key))));
      return found.flat().length ? window.charts.curves(element, found.flat(), evaluators()) : nothing(element);
    } },
  ];
  let plotVisible = false;
  const nothing = (element) => { element.turn = (element.turn || 0) + 1; element.replaceChildren(make("p", { className: "faint", textContent: "No row of this view can be drawn." })); };
  const renderPlot = () => {
    const ranked = rows.filter((r) => r.suite === state.suite && r.track === state.track && r.rank !== null);
    const chosen = state.plot || (ranked.length === 1 ? "profile" : PLOTS[0].value);  // one point against another axis says nothing
    window.tabs($("plots"), "Plots", PLOTS.map(({ value, text }) => ({ value, text })), chosen, (plot) => { state.plot = plot; save(); renderPlot(); });
    const plot = PLOTS.find((p) => p.value === chosen);
    $("plot-note").textContent = plot.note();
    if (!plotVisible) return;
    plot.draw($("plot"));
  };

  // ---- everything together
  const render = () => {
    renderNav();
    $("search").value = state.q;
    renderFacets();
    renderTable();
    renderColumns();
    renderPicks();
    renderCompare();
    renderPlot();
  };
  const go = (change) => {
    const moved = ["suite", "track", "ipc", "dataset"].some((k) => k in change);
    Object.assign(state, change);
    if (moved) { fit(state); if (state.sort && !columnKeys().includes(state.sort.column)) state.sort = null; }
    save();
    if (moved) render();
    else { if (!("q" in change)) renderFacets(); renderTable(); later(renderPlot); }  // charts wait until the reader pauses
  };
  let plotTimer;
  const later = (work) => { clearTimeout(plotTimer); plotTimer = setTimeout(work, 300); };

  if (!rows.length) { $("table").remove(); document.body.dataset.ready = "1"; return; }
  state = read();
  let searchTimer;
  $("search").addEventListener("input", () => { clearTimeout(searchTimer); searchTimer = setTimeout(() => go({ q: $("search").value }), 20); });
  $("clear").addEventListener("click", () => { for (const f of FACETS) state.facets[f.key] = []; $("search").value = ""; go({ q: "" }); renderFacets(); $("search").focus(); });
  $("view-csv").addEventListener("click", (event) => { event.preventDefault(); table.download("csv", `mabench-${state.suite.replace("@", "-")}-${state.track}-ipc${state.ipc}.csv`, { bom: true }); $("download").open = false; });
  for (const link of document.querySelectorAll("[data-focus]")) link.addEventListener("click", (event) => { event.preventDefault(); $(link.dataset.focus).focus(); });
  window.addEventListener("hashchange", () => { state = read(); built = ""; render(); });
  document.addEventListener("themechange", () => { save(); later(() => { renderCompare(); renderPlot(); }); });
  let wide = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== wide) { wide = window.innerWidth; later(() => { renderTable(); renderColumns(); renderCompare(); renderPlot(); }); } });
  $("about").open = !narrow();
  render();
  save();
  new IntersectionObserver((entries, observer) => { if (entries.some((e) => e.isIntersecting)) { observer.disconnect(); plotVisible = true; renderPlot(); } }, { rootMargin: "300px" }).observe($("plot"));
})();
