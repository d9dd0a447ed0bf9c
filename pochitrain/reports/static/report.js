"use strict";
/* The confusion matrix: three ways to see it, and the images behind each cell. */

const { classes, short, counts, colors, title, xlabel, ylabel, cells } = page.matrix;
const NUMBERED = 25; // classes; with more, numbers would not fit into the cells
const NAMED = 45; // class names along an axis; with more, only every second or third is written

const rowTotals = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
const share = (row, column) => (rowTotals[row] ? (100 * counts[row][column]) / rowTotals[row] : null);
const percent = (value) => (value === null ? "–" : `${value.toFixed(1)}\u00a0%`);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // for Plotly's labels

const plot = document.getElementById("matrix");
const selects = { true: document.getElementById("true"), predicted: document.getElementById("predicted") };
let mode = "images";

/* ---- the plot ---- */

function value(row, column) {
  if (mode === "share") return share(row, column);
  if (mode === "mistakes" && row === column) return null;
  return counts[row][column];
}

function written(row, column) {
  const shown = value(row, column);
  if (shown === null) return "";
  return mode === "share" ? shown.toFixed(shown < 10 && shown > 0 ? 1 : 0) : String(shown);
}

function axis(text, range) {
  const first = Math.max(Math.ceil(Math.min(...range)), 0);
  const last = Math.min(Math.floor(Math.max(...range)), short.length - 1);
  const step = Math.max(Math.ceil((last - first + 1) / NAMED), 1);
  const at = [];
  for (let index = first; index <= last; index += step) at.push(index);
  return {
    title: { text: plain(text) }, range, tickvals: at, ticktext: at.map((index) => plain(short[index])),
    showgrid: false, zeroline: false, ticks: "", tickfont: { size: at.length > 25 ? 9 : 11 },
  };
}

const letters = Math.max(...short.map((name) => [...name].length)) * classes.length;
const angle = classes.length > NUMBERED ? -90 : letters > 60 ? -45 : 0; // of the names below the columns

function draw() {
  const all = classes.map((_, index) => index);
  const exponent = classes.length > 20 ? 0.5 : 1; // of many classes, rare mistakes shall stay visible
  const colored = (row, column) => { const shown = value(row, column); return shown === null ? null : shown ** exponent; };
  const numbered = classes.length <= NUMBERED;
  const heat = {
    type: "heatmap", x: all, y: all, z: all.map((row) => all.map((column) => colored(row, column))),
    colorscale: colors, zmin: 0, showscale: false, xgap: numbered ? 1 : 0, ygap: numbered ? 1 : 0,
    hovertext: all.map((row) => all.map((column) => fill(page.words.hover, {
      true: plain(classes[row]), predicted: plain(classes[column]), count: counts[row][column], share: percent(share(row, column)),
    }))),
    hovertemplate: "%{hovertext}<extra></extra>",
    ...(numbered && { text: all.map((row) => all.map((column) => written(row, column))), texttemplate: "%{text}", textfont: { size: classes.length > 12 ? 11 : 14 } }),
  };
  const side = Math.max(Math.min(plot.clientWidth, 820), 280);
  const range = [-0.5, classes.length - 0.5];
  const layout = {
    title: { text: plain(title), x: 0, xref: "paper", font: { size: 15 } },
    xaxis: { ...axis(xlabel, range), tickangle: angle },
    yaxis: axis(ylabel, [...range].reverse()),
    height: side, margin: { l: 60, r: 10, t: 45, b: 60 }, dragmode: "zoom",
  };
  Plotly.react(plot, [heat], themed(layout), chartOptions);
}

function renameAxes() {
  const { xaxis, yaxis } = plot.layout;
  const names = { x: axis(xlabel, [...xaxis.range]), y: axis(ylabel, [...yaxis.range]) };
  const update = {};
  for (const key of ["x", "y"]) {
    update[`${key}axis.tickvals`] = names[key].tickvals;
    update[`${key}axis.ticktext`] = names[key].ticktext;
  }
  if (JSON.stringify([xaxis.tickvals, yaxis.tickvals]) !== JSON.stringify([names.x.tickvals, names.y.tickvals])) {
    Plotly.relayout(plot, update);
  }
}

/* ---- the images of a cell ---- */

function figureOf([name, ofTrue, ofPredicted, source], right) {
  const words = right
    ? [fill(page.words.predictedWith, { share: percent(100 * ofPredicted) })]
    : [fill(page.words.predictedWith, { share: percent(100 * ofPredicted) }), fill(page.words.trueWith, { share: percent(100 * ofTrue) })];
  const caption = element("figcaption", {}, ...words.flatMap((text) => [text, element("br")]), element("span", { class: "path" }, name));
  return element("figure", {}, ...(source ? [watch(element("img", { src: source, alt: name }))] : []), caption);
}

function show(row, column) {
  selects.true.value = row;
  selects.predicted.value = column;
  const images = cells[`${row},${column}`] ?? [];
  const count = counts[row][column];
  const said = fill(page.words.cell, {
    true: classes[row], predicted: classes[column], count, share: percent(share(row, column)),
  });
  const parts = [element("h3", {}, said)];
  if (images.length < count) parts.push(element("p", { class: "note" }, fill(page.words.more, { shown: images.length, count })));
  const gallery = element("div", { class: "gallery small scroll" }, ...images.map((image) => figureOf(image, row === column)));
  document.getElementById("cell").replaceChildren(...parts, gallery);
}

/* ---- what the reader does ---- */

for (const select of Object.values(selects)) {
  classes.forEach((name, index) => select.append(element("option", { value: index }, name)));
  select.addEventListener("change", () => show(Number(selects.true.value), Number(selects.predicted.value)));
}

for (const button of document.querySelectorAll("button[data-mode]")) {
  button.addEventListener("click", () => {
    mode = button.dataset.mode;
    for (const other of document.querySelectorAll("button[data-mode]")) other.setAttribute("aria-pressed", other === button);
    draw();
  });
}

for (const button of document.querySelectorAll("button[data-cell]")) {
  button.addEventListener("click", () => {
    show(...button.dataset.cell.split(",").map(Number));
    document.getElementById("true").scrollIntoView({ behavior: "smooth", block: "center" });
  });
}

draw();
plot.on("plotly_click", (event) => show(event.points[0].y, event.points[0].x));
plot.on("plotly_relayout", renameAxes);
dark.addEventListener("change", draw);
show(...page.matrix.first);
