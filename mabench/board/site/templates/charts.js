// Charts as Vega-Lite specs. The libraries are loaded when the first chart is wanted; expressions are interpreted, never compiled.
"use strict";
(() => {
  const root = document.body.dataset.root;
  const PALETTE = { light: ["#0072B2", "#D55E00", "#009E73", "#AA4499", "#8C6D00", "#555555"], dark: ["#56B4E9", "#F0874A", "#2CC79A", "#E08CC4", "#F0E442", "#BBBBBB"] };
  const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
  const loaded = new Map();

  const script = (address) => {
    if (!loaded.has(address)) {
      loaded.set(address, new Promise((resolve, reject) => {
        const element = document.createElement("script");
        element.src = address;
        element.onload = resolve;
        element.onerror = () => reject(new Error(`cannot load ${address}`));
        document.head.append(element);
      }));
    }
    return loaded.get(address);
  };
  const library = async () => {
    for (const name of ["vega.min.js", "vega-lite.min.js", "vega-embed.min.js"]) await script(`${root}assets/${name}`);
  };
  const colour = (name) => {  // a probe, because a custom property is handed out unresolved
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const palette = () => PALETTE[window.theme.dark() ? "dark" : "light"];

  const draw = async (element, spec, marks = 0) => {
    const turn = (element.turn = (element.turn || 0) + 1);
    await library();
    if (turn !== element.turn) return;
    const ink = colour("ink"), faint = colour("faint"), line = colour("line");
    const config = {
      background: "transparent", font: "system-ui, Liberation Sans, sans-serif", view: { stroke: null },
      axis: { labelColor: faint, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 600, labelLimit: 170 },
      legend: { labelColor: ink, titleColor: faint, labelFontSize: 12, labelLimit: 280, symbolSize: 90, symbolOpacity: 1, symbolFillColor: faint, symbolStrokeColor: faint, orient: "top", direction: element.clientWidth < 640 ? "vertical" : "horizontal", columns: element.clientWidth < 900 ? 1 : 0, title: null },
      header: { labelColor: ink, labelFontSize: 12, labelFontWeight: 600, title: null },
      range: { category: palette(), symbol: SHAPES },
      point: { size: 70, filled: true }, line: { strokeWidth: 2 }, rule: { color: faint },
    };
    element.replaceChildren();
    const result = await window.vegaEmbed(element, { $schema: "https://vega.github.io/schema/vega-lite/v6.json", config, ...spec }, {
      ast: true, renderer: marks > 400 ? "canvas" : "svg", mode: "vega-lite", tooltip: { theme: window.theme.dark() ? "dark" : "light" },
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    });
    element.view = result.view;
    element.dataset.drawn = String(turn);
  };

  const say = (element, text) => {
    element.turn = (element.turn || 0) + 1;
    element.replaceChildren(Object.assign(document.createElement("p"), { className: "faint", textContent: text }));
    element.dataset.drawn = String(element.turn);
  };

  const percentAxis = (title) => ({ title, format: "~f", tickCount: 7 });
  const sets = (rows) => [...new Set(rows.map((r) => r.set))];
  const bySet = (rows, extra = {}) => ({ field: "set", type: "nominal", sort: sets(rows), scale: { domain: sets(rows) }, ...extra });
  const width = (element) => Math.max(230, element.clientWidth - 40);

  const pareto = (element, rows) => {
    const narrow = element.clientWidth < 640, front = rows.filter((r) => r.front), ipcs = [...new Set(rows.map((r) => r.ipc))].sort((a, b) => a - b), tiers = [...new Set(rows.map((r) => r.tier))].sort();
    return draw(element, {
    description: "Score against stored bytes; the line joins the sets that no smaller set beats.",
    width: width(element) - 60, height: 380,
    layer: [
      ...(front.length ? [{ data: { values: front }, mark: { type: "line", interpolate: "step-after", strokeDash: [5, 3], color: colour("faint") },
        encoding: { x: { field: "bytes", type: "quantitative" }, y: { field: "score", type: "quantitative" } } }] : []),
      ...[true, false].filter((ranked) => rows.some((r) => r.ranked === ranked)).map((ranked) => ({
        data: { values: rows.filter((r) => r.ranked === ranked) }, mark: { type: "point", size: 95, filled: ranked, strokeWidth: 1.8, opacity: 0.8 },
        encoding: {
          x: { field: "bytes", type: "quantitative", scale: { type: "log", nice: true }, axis: { title: "stored bytes (logarithmic)", format: "~s", grid: false, labelOverlap: "greedy" } },
          y: { field: "score", type: "quantitative", scale: { zero: false, nice: true, padding: 8 }, axis: percentAxis("score %") },
          color: { field: "ipc", type: "ordinal", scale: { range: palette(), domain: ipcs }, legend: { title: "IPC", direction: "horizontal", columns: 0 } },
          shape: { field: "tier", type: "nominal", scale: { domain: tiers }, legend: { title: "trust", direction: narrow ? "vertical" : "horizontal", columns: narrow ? 1 : 0 } },
          tooltip: [{ field: "set", title: "method" }, { field: "score", title: "score %", format: ".2f" }, { field: "bytes", format: ",", title: "bytes" }, { field: "tier", title: "trust" }, { field: "status" }],
        },
      })),
      ...(narrow || !front.length ? [] : [{ data: { values: front }, mark: { type: "text", dy: -13, fontSize: 11, limit: 160, color: colour("ink") },
        encoding: { x: { field: "bytes", type: "quantitative" }, y: { field: "score", type: "quantitative" }, text: { field: "set" } } }]),
    ],
  }, rows.length);
  };

  const profile = (element, rows, evaluators) => draw(element, {
    description: "Accuracy of every evaluator, a line a set, with 95 % intervals.",
    width: width(element) - 60, height: 340, data: { values: rows },
    encoding: { x: { field: "evaluator", type: "nominal", sort: evaluators, axis: { title: null, labelAngle: -30, grid: true } }, color: bySet(rows), },
    layer: [
      { mark: { type: "line", point: false }, encoding: { y: { field: "mean", type: "quantitative", scale: { zero: false, nice: true }, axis: percentAxis("accuracy %") } } },
      { mark: { type: "rule", strokeWidth: 1.5 }, encoding: { y: { field: "low", type: "quantitative" }, y2: { field: "high" }, color: bySet(rows) } },
      { mark: { type: "point" }, encoding: { y: { field: "mean", type: "quantitative" }, shape: bySet(rows), tooltip: [{ field: "set", title: "method" }, { field: "evaluator" }, { field: "mean", title: "accuracy %", format: ".2f" }, { field: "half", title: "± 95 %", format: ".2f" }] } },
    ],
  });

  const bars = (element, rows, evaluators) => draw(element, {
    description: "Accuracy of every evaluator on every compared set, with 95 % intervals.",
    width: width(element) - 60, height: 320, data: { values: rows },
    encoding: { x: { field: "evaluator", type: "nominal", sort: evaluators, axis: { title: null, labelAngle: evaluators.length > 3 || element.clientWidth < 600 ? -30 : 0 } }, xOffset: bySet(rows) },
    layer: [
      { mark: { type: "bar", stroke: null }, encoding: { y: { field: "mean", type: "quantitative", axis: percentAxis("accuracy %") }, color: bySet(rows), tooltip: [{ field: "set", title: "method" }, { field: "evaluator" }, { field: "mean", title: "accuracy %", format: ".2f" }, { field: "half", title: "± 95 %", format: ".2f" }, { field: "runs" }] } },
      { mark: { type: "rule", strokeWidth: 1.6, color: colour("ink") }, encoding: { y: { field: "low", type: "quantitative" }, y2: { field: "high" } } },
    ],
  });

  const bestlast = (element, rows) => {
    const values = rows.flatMap((r) => [r.last, r.score]);
    const low = Math.min(...values), high = Math.max(...values);
    return draw(element, {
      description: "Score against accuracy after the last epoch; the line is where they are equal.",
      width: Math.min(width(element) - 60, 560), height: Math.min(width(element) - 60, 420),
      layer: [
        { data: { values: [{ a: low, b: low }, { a: high, b: high }] }, mark: { type: "line", strokeDash: [4, 4], strokeWidth: 1, color: colour("faint") },
          encoding: { x: { field: "a", type: "quantitative" }, y: { field: "b", type: "quantitative" } } },
        { data: { values: rows }, mark: { type: "point", filled: true },
          encoding: {
            x: { field: "last", type: "quantitative", scale: { zero: false, nice: true }, axis: percentAxis("last look %") },
            y: { field: "score", type: "quantitative", scale: { zero: false, nice: true }, axis: percentAxis("score %") },
            color: { field: "ipc", type: "ordinal", scale: { range: palette() }, legend: { title: "IPC", direction: "horizontal", columns: 0 } },
            tooltip: [{ field: "set", title: "method" }, { field: "score", title: "score %", format: ".2f" }, { field: "last", title: "last %", format: ".2f" }],
          } },
      ],
    }, rows.length);
  };

  // curves: rows of {set, evaluator, epoch, mean, low, high}
  const curves = (element, rows, evaluators) => {
    if (new Set(rows.map((r) => r.epoch)).size < 2) return say(element, "This suite looks once, after the last epoch: there is no curve to draw.");
    const columns = element.clientWidth < 640 ? 1 : element.clientWidth < 1000 ? 2 : 3;
    return draw(element, {
      description: "Test accuracy against epoch, a panel an evaluator, a line a set, mean over seeds.",
      data: { values: rows }, columns: Math.min(columns, evaluators.length),
      facet: { field: "evaluator", type: "nominal", sort: evaluators },
      spec: {
        width: Math.floor(width(element) / Math.min(columns, evaluators.length)) - 70, height: 190,
        encoding: { x: { field: "epoch", type: "quantitative", axis: { title: "epoch", grid: false, tickCount: 5 } }, color: bySet(rows, sets(rows).length === 1 ? { legend: null } : {}) },
        layer: [
          { mark: { type: "area", opacity: 0.16, line: false }, encoding: { y: { field: "low", type: "quantitative" }, y2: { field: "high" } } },
          { mark: { type: "line", point: { size: 28 } }, encoding: { y: { field: "mean", type: "quantitative", scale: { zero: false }, axis: percentAxis("test accuracy %") },
            tooltip: [{ field: "set", title: "method" }, { field: "evaluator" }, { field: "epoch" }, { field: "mean", format: ".2f", title: "mean %" }, { field: "low", format: ".2f" }, { field: "high", format: ".2f" }] } },
        ],
      },
      resolve: { scale: { x: "shared", y: "independent" } },
    });
  };
  const curveRows = (found, name) => Object.entries(found || {}).flatMap(([evaluator, entry]) => {
    const runs = Object.entries(entry).filter(([key]) => key !== "best_so_far").map(([, run]) => run);
    return runs[0][0].map((epoch, index) => {
      const values = runs.filter((r) => r[0][index] === epoch).map((r) => 100 * r[1][index]);
      return { set: name, evaluator, epoch, mean: values.reduce((a, b) => a + b, 0) / values.length, low: Math.min(...values), high: Math.max(...values) };
    });
  });
  const setCurves = async (key) => { await script(`${root}sets/${key}/curves.js`); return window.CURVES[key]; };
  window.charts = { pareto, profile, bars, bestlast, curves, curveRows, setCurves };

  // Tabs: one is selected, arrow keys move, Tab goes in and out once.
  window.tabs = (element, label, items, current, pick) => {
    const had = element.contains(document.activeElement);
    element.setAttribute("role", "tablist");
    element.setAttribute("aria-label", label);
    element.replaceChildren(...items.map(({ value, text, count, title }) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: text, title: title || "", tabIndex: value === current ? 0 : -1 });
      button.setAttribute("role", "tab");
      button.setAttribute("aria-selected", String(value === current));
      button.dataset.value = value;
      if (count !== undefined) {
        const small = document.createElement("span");
        Object.assign(small, { className: "count", textContent: count });
        button.append(small);
      }
      button.addEventListener("click", () => pick(value));
      return button;
    }));
    element.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const index = items.findIndex((item) => item.value === current);
      const next = event.key === "Home" ? 0 : event.key === "End" ? items.length - 1 : step ? (index + step + items.length) % items.length : -1;
      if (next < 0) return;
      event.preventDefault();
      pick(items[next].value);
      element.querySelector('[aria-selected="true"]')?.focus();
    };
    const chosen = element.querySelector('[aria-selected="true"]');
    if (had) chosen?.focus();
    if (chosen && element.scrollWidth > element.clientWidth) {
      const box = element.getBoundingClientRect(), own = chosen.getBoundingClientRect();
      element.scrollLeft += own.left - box.left - (box.width - own.width) / 2;
    }
  };

  // The page of one set.
  const slug = document.body.dataset.set;
  if (slug) {
    const found = window.CURVES[slug], names = Object.keys(found).sort();
    const show = (name) => {
      window.tabs(document.getElementById("curve-tabs"), "Suite and track", names.map((n) => ({ value: n, text: n.replace("/", ", ") })), name, show);
      window.charts.curves(document.getElementById("curves"), curveRows(found[name], document.querySelector("h1").textContent), Object.keys(found[name]));
      document.getElementById("curves").again = () => show(name);
    };
    show(names[0]);
    let timer;
    const redraw = () => { clearTimeout(timer); timer = setTimeout(() => document.getElementById("curves").again(), 120); };
    document.addEventListener("themechange", redraw);
    window.addEventListener("resize", redraw);
  }
})();
