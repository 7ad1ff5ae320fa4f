"use strict";
// The matrix of tasks and models: one stop of the tab key, arrows go from cell to cell.
const Matrix = (() => {
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  // The next cell in a direction that holds a link, or null at the edge.
  function next(cell, [down, right]) {
    const rows = [...cell.closest("tbody").rows];
    let row = rows.indexOf(cell.parentElement), column = cell.cellIndex;
    for (;;) {
      row += down;
      column += right;
      const found = rows[row]?.cells[column];
      if (!found) return null;
      const link = found.querySelector("a.cell");
      if (link) return link;
    }
  }

  function start() {
    const table = document.getElementById("matrix-table");
    if (!table) return;
    const links = [...table.querySelectorAll("a.cell")];
    links.forEach((link, i) => { link.tabIndex = i ? -1 : 0; });
    table.addEventListener("focusin", event => {
      if (!event.target.matches("a.cell")) return;
      for (const link of links) link.tabIndex = link === event.target ? 0 : -1;
    });
    table.addEventListener("keydown", event => {
      const step = STEPS[event.key];
      if (!step || !event.target.matches("a.cell")) return;
      event.preventDefault();
      next(event.target.closest("td"), step)?.focus();
    });
  }

  return { start };
})();
