"use strict";
// Tables are whole without this: it makes their heads sort and their rows filter.
const later = (one, other) => {
  const [a, b] = [one, other].map((cell) => cell.dataset.v);
  if (a !== undefined && b !== undefined) return a - b;
  return one.textContent.trim().localeCompare(other.textContent.trim(), undefined, { numeric: true });
};
const isMissing = (cell) => cell.dataset.v === undefined && ["", "–"].includes(cell.textContent.trim());

function sort(table, head) {
  const descends = head.getAttribute("aria-sort") === "descending" ||
    (head.getAttribute("aria-sort") === "none" && !head.classList.contains("n"));
  for (const other of table.tHead.rows[0].cells) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  }
  head.setAttribute("aria-sort", descends ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [one, other].map((row) => row.cells[head.cellIndex]);
    if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
    return descends ? later(a, b) : later(b, a);
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.data")) {
  for (const head of table.tHead.rows[0].cells) {
    if ("fixed" in head.dataset) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(table, head));
  }
}

for (const results of document.querySelectorAll(".results")) {
  const filter = results.querySelector(".filter");
  const [input, status] = [filter.querySelector("input"), filter.querySelector("[role=status]")];
  const rows = [...results.querySelectorAll("tbody tr")];
  const told = (row) => [...row.cells].filter((cell) => !cell.classList.contains("again")).map((cell) => cell.textContent);
  const texts = rows.map((row) => told(row).join(" ").toLowerCase());
  filter.hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every((word) => texts[place].includes(word));
      shown += !row.hidden;
    });
    for (const part of results.querySelectorAll("details.part")) {
      part.open = words.length > 0 && part.querySelector("tbody tr:not([hidden])") !== null;
    }
    status.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}
