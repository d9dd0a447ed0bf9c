"use strict";
const page = JSON.parse(document.getElementById("data").textContent);

/* ---- elements ---- */

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children); // texts become text nodes: a name is never read as HTML
  return made;
}

/* ---- sortable tables ---- */

function sortBy(table, column, descending) {
  const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [first, second] = [key(a), key(b)];
    const [x, y] = [Number(first), Number(second)];
    if (first === "" || second === "") return (first === "") - (second === ""); // what has no value stays below
    const order = Number.isNaN(x) || Number.isNaN(y) ? first.localeCompare(second, undefined, { numeric: true }) : x - y;
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : heading.classList.contains("number");
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

/* ---- pictures of a few pixels are shown as squares, not blurred ---- */

function sharpen(image) {
  if (image.naturalWidth && Math.max(image.naturalWidth, image.naturalHeight) <= 64) image.classList.add("tiny");
}

function watch(image) {
  image.addEventListener("load", () => sharpen(image));
  sharpen(image);
  return image;
}

document.querySelectorAll("figure img").forEach(watch);

/* ---- charts, in the colours of the page ---- */

const dark = matchMedia("(prefers-color-scheme: dark)");

function themed(layout) {
  const colors = getComputedStyle(document.documentElement);
  const [ink, line] = [colors.getPropertyValue("--ink").trim(), colors.getPropertyValue("--line").trim()];
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colors.getPropertyValue("--muted").trim(), activecolor: ink },
  };
  const made = { ...base, ...layout };
  for (const key of Object.keys(layout)) {
    if (/^[xy]axis/.test(key)) made[key] = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...layout[key] };
  }
  return made;
}

const chartOptions = {
  displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  showSendToCloud: false, plotlyServerURL: "", // what was judged stays here: no button sends it away
};

function drawCharts() {
  for (const [id, figure] of Object.entries(page.charts ?? {})) {
    const place = document.getElementById(id);
    if (place) Plotly.react(place, figure.data, themed(figure.layout), chartOptions);
  }
}

drawCharts();
dark.addEventListener("change", drawCharts);
