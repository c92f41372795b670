"use strict";
// Everything that comes from outside is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const ROWS = 200; // of the table of single pictures, before "show all"

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function fill(select, labels, chosen) {
  select.replaceChildren(...labels.map((label, i) => {
    const option = element("option", label);
    option.value = i;
    return option;
  }));
  select.selectedIndex = chosen;
}

const shown = (value, metric) => value === null || value === undefined ? "–" : value.toFixed(metric.digits);

for (const section of document.querySelectorAll("[data-benchmark]")) {
  const benchmark = data.benchmarks[Number(section.dataset.benchmark)];
  const compare = section.querySelector(".compare") ? comparer(section, benchmark) : null;
  if (compare) extremes(section.querySelector(".extremes"), benchmark, compare);
  scores(section.querySelector(".scores"), benchmark, compare);
}
addEventListener("beforeprint", () => document.querySelectorAll(".gallery").forEach((gallery) => { gallery.open = true; }));

// Two pictures over each other, cut where the slider is.
function comparer(section, benchmark) {
  const root = section.querySelector(".compare");
  const [left, right, picture] = ["left", "right", "picture"].map((name) => root.querySelector("select." + name));
  const stage = root.querySelector(".stage");
  const cut = root.querySelector(".cut");
  const [over, under] = ["over", "under"].map((name) => root.querySelector("." + name));
  const labels = benchmark.sources.map((source) => source.label);
  const ours = benchmark.sources.findLastIndex((source) => source.method !== null);
  fill(left, labels, 0);
  fill(right, labels, ours > 0 ? ours : labels.length - 1);
  fill(picture, benchmark.shown.map((i) => benchmark.ids[i]), 0);
  const image = (source) =>
    section.querySelector(`.gallery img[data-picture="${benchmark.shown[picture.selectedIndex]}"][data-source="${source}"]`);

  function place(share) {
    const at = Math.min(100, Math.max(0, share));
    stage.style.setProperty("--cut", at + "%");
    cut.setAttribute("aria-valuenow", Math.round(at));
    cut.setAttribute("aria-valuetext", `${Math.round(at)} % ${labels[left.selectedIndex]}, the rest ${labels[right.selectedIndex]}`);
    return at;
  }
  let at = place(50);
  const pointed = (event) => {
    const box = stage.getBoundingClientRect();
    at = place((event.clientX - box.left) / box.width * 100);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    pointed(event);
    cut.focus({ preventScroll: true });
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) pointed(event);
  });
  cut.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 2;
    const to = {
      ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step,
      PageDown: at - 10, PageUp: at + 10, Home: 0, End: 100,
    }[event.key];
    if (to === undefined) return;
    at = place(to);
    event.preventDefault();
  });

  function told(source) {
    const part = element("div");
    part.append(element("h4", labels[source]));
    const prompts = benchmark.prompts[picture.selectedIndex][source];
    if (prompts) {
      const list = element("dl");
      for (const [name, text] of [["Semantic prompt", prompts[0]], ["Restoration prompt", prompts[1]]]) {
        list.append(element("dt", name), element("dd", text || "none"));
      }
      part.append(list);
    }
    return part;
  }

  function show() {
    const index = benchmark.shown[picture.selectedIndex];
    for (const [img, select, tag] of [[over, left, ".tag-left"], [under, right, ".tag-right"]]) {
      const from = image(select.selectedIndex);
      img.src = from.src;
      img.width = from.width;
      img.height = from.height;
      img.alt = `${labels[select.selectedIndex]}: ${benchmark.ids[index]}`;
      root.querySelector(tag).textContent = labels[select.selectedIndex];
      stage.classList.toggle("small", Number(from.getAttribute("width")) < 256);
    }
    cut.setAttribute("aria-label", `Cut between ${labels[left.selectedIndex]} and ${labels[right.selectedIndex]}`);
    at = place(at);
    const sides = left.selectedIndex === right.selectedIndex ? [left.selectedIndex] : [left.selectedIndex, right.selectedIndex];
    const table = element("table");
    const head = element("tr");
    head.append(element("th", ""), ...sides.map((source) => element("th", labels[source], "number")));
    table.append(head);
    for (const metric of benchmark.metrics) {
      const row = element("tr");
      const values = sides.map((source) => {
        const method = benchmark.sources[source].method;
        return method === null ? null : benchmark.scores[metric.key][method]?.[index];
      });
      row.append(element("th", metric.heading), ...values.map((value) => element("td", shown(value, metric), "number")));
      if (values.some((value) => value !== null && value !== undefined)) table.append(row);
    }
    root.querySelector(".told").replaceChildren(...sides.map(told), table);
  }
  for (const select of [left, right, picture]) select.addEventListener("change", show);
  const step = (by) => {
    picture.selectedIndex = (picture.selectedIndex + by + benchmark.shown.length) % benchmark.shown.length;
    show();
  };
  root.querySelector(".previous").addEventListener("click", () => step(-1));
  root.querySelector(".next").addEventListener("click", () => step(1));
  show();

  return {
    has: (index) => benchmark.shown.includes(index),
    thumbnail: (index, source) => section.querySelector(`.gallery img[data-picture="${index}"][data-source="${source}"]`).src,
    open(index, source) {
      picture.selectedIndex = benchmark.shown.indexOf(index);
      if (source !== undefined) right.selectedIndex = source;
      show();
      root.scrollIntoView({ block: "start" });
    },
  };
}

// The pictures that a metric likes best and least.
function extremes(root, benchmark, compare) {
  const [metric, method] = ["metric", "method"].map((name) => root.querySelector("select." + name));
  const sources = benchmark.sources.map((source, i) => ({ ...source, i })).filter((source) => source.method !== null);
  if (!sources.length || !benchmark.metrics.length) { root.hidden = true; return; }
  fill(metric, benchmark.metrics.map((metric) => metric.heading), benchmark.favourite);
  fill(method, sources.map((source) => source.label), sources.length - 1);
  function card(index, value, source, chosen) {
    const button = element("button", undefined, "thumb");
    button.type = "button";
    if (compare.has(index)) {
      const img = element("img");
      img.src = compare.thumbnail(index, source.i);
      img.alt = "";
      button.append(img);
      button.addEventListener("click", () => compare.open(index, source.i));
    } else {
      button.disabled = true;
      button.append(element("span", "not in this file"));
    }
    button.append(element("span", shown(value, chosen), "value"), element("span", benchmark.ids[index]));
    return button;
  }
  function show() {
    const chosen = benchmark.metrics[metric.selectedIndex];
    const source = sources[method.selectedIndex];
    const values = (benchmark.scores[chosen.key][source.method] ?? []).map((value, index) => ({ value, index }));
    values.sort((a, b) => (chosen.rises ? b.value - a.value : a.value - b.value) || a.index - b.index);
    const line = (name, cases) => {
      const part = element("div");
      const row = element("div", undefined, "line");
      row.append(...cases.map(({ value, index }) => card(index, value, source, chosen)));
      part.append(element("h4", name), row);
      return part;
    };
    const worst = values.slice(Math.max(benchmark.cases, values.length - benchmark.cases)).reverse();
    root.querySelector(".cases").replaceChildren(line("Best", values.slice(0, benchmark.cases)), line("Worst", worst));
  }
  for (const select of [metric, method]) select.addEventListener("change", show);
  show();
}

// A table that a click on a heading sorts.
function scores(root, benchmark, compare) {
  const metric = root.querySelector("select.metric");
  if (!benchmark.metrics.length) { root.hidden = true; return; }
  fill(metric, benchmark.metrics.map((metric) => metric.heading), 0);
  const columns = ["Picture", ...benchmark.methods];
  let sorted = { column: 0, up: true };
  let all = false;
  const headings = columns.map((name, column) => {
    const th = element("th", undefined, column ? "number" : "");
    const button = element("button", name);
    button.type = "button";
    th.scope = "col";
    th.append(button);
    button.addEventListener("click", () => {
      sorted = { column, up: sorted.column === column ? !sorted.up : true };
      show();
    });
    return th;
  });
  const head = element("tr");
  head.append(...headings);
  root.querySelector("thead").append(head);

  function show() {
    const chosen = benchmark.metrics[metric.selectedIndex];
    const rows = benchmark.ids.map((id, index) => [id, ...benchmark.methods.map((_, i) => benchmark.scores[chosen.key][i]?.[index] ?? null)].concat(index));
    const { column, up } = sorted;
    const order = (a, b) => typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : (a ?? -Infinity) - (b ?? -Infinity);
    rows.sort((a, b) => (up ? 1 : -1) * order(a[column], b[column]) || a.at(-1) - b.at(-1));
    headings.forEach((th, i) => th.setAttribute("aria-sort", i !== column ? "none" : up ? "ascending" : "descending"));
    root.querySelector("tbody").replaceChildren(...rows.slice(0, all ? rows.length : ROWS).map((row) => {
      const tr = element("tr");
      const index = row.at(-1);
      const name = element("th");
      name.scope = "row";
      if (compare?.has(index)) {
        const button = element("button", row[0]);
        button.type = "button";
        button.addEventListener("click", () => compare.open(index));
        name.append(button);
      } else {
        name.textContent = row[0];
      }
      tr.append(name, ...row.slice(1, -1).map((value) => element("td", shown(value, chosen), "number")));
      return tr;
    }));
    const more = root.querySelector(".more");
    more.replaceChildren();
    if (!all && rows.length > ROWS) {
      const button = element("button", `Show all ${rows.length} pictures`);
      button.type = "button";
      button.addEventListener("click", () => { all = true; show(); });
      more.append(button);
    }
  }
  metric.addEventListener("change", show);
  show();
}
