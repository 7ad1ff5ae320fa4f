"use strict";
// The frontier: pointing at a model shows its configuration, a click opens its page, boxes choose sparse and dense.
const Frontier = (() => {
  function show(name) {
    for (const card of document.querySelectorAll("#frontier .model-card")) card.hidden = card.dataset.model !== name;
    document.getElementById("frontier-hint").hidden = Boolean(name);
    const view = Charts.view(document.querySelector("[data-chart=frontier]"));
    view?.signal("active", name ?? "").runAsync();
  }

  function connect(view) {
    const model = item => item?.datum?.name;
    view.addEventListener("mousemove", (_, item) => { if (model(item)) show(model(item)); });
    view.addEventListener("click", (_, item) => { if (model(item)) document.querySelector(`#frontier .key a[data-model="${model(item)}"]`).click(); });
    for (const box of document.querySelectorAll("#frontier input[data-kind]")) {
      view.signal(box.dataset.kind, box.checked);
    }
    view.runAsync();
  }

  function start() {
    const chart = document.querySelector("[data-chart=frontier]");
    if (!chart) return;
    chart.addEventListener("drawn", event => connect(event.detail));
    for (const box of document.querySelectorAll("#frontier input[data-kind]")) {
      box.addEventListener("change", () => Charts.view(chart)?.signal(box.dataset.kind, box.checked).runAsync());
    }
    for (const link of document.querySelectorAll("#frontier .key a")) {
      const name = link.dataset.model;
      for (const event of ["focus", "pointerenter"]) link.addEventListener(event, () => show(name));
    }
  }

  return { start };
})();

// The one chart of a task's curves: the list above it chooses the task.
const TaskCurves = (() => {
  function start() {
    const chart = document.querySelector("[data-chart=tasks]");
    const list = document.getElementById("task-choice");
    if (!chart || !list) return;
    const choose = () => Charts.view(chart)?.signal("task", list.value).runAsync();
    list.addEventListener("change", choose);
    chart.addEventListener("drawn", choose);
  }

  return { start };
})();
