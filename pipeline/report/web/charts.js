"use strict";
// Vega-Lite charts: each is drawn when it comes near the screen, and again when the colour scheme changes.
const Charts = (() => {
  const drawn = new Map(); // element → what vegaEmbed returned
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // A copy of a specification in which names of CSS variables are replaced by their values.
  function coloured(spec) {
    const style = getComputedStyle(document.documentElement);
    const fill = (_, value) =>
      typeof value === "string" && value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    return JSON.parse(JSON.stringify(spec), fill);
  }

  function config() {
    const font = getComputedStyle(document.body).fontFamily;
    const text = { labelColor: "--dim", titleColor: "--ink", labelFont: font, titleFont: font, titleFontWeight: 500 };
    return coloured({
      background: "transparent", font, view: { stroke: null },
      axis: { ...text, gridColor: "--rule", domainColor: "--rule", tickColor: "--rule", labelFontSize: 11, titleFontSize: 12 },
      legend: { ...text, labelFontSize: 11.5, orient: "bottom", columns: 4, symbolStrokeWidth: 2, labelLimit: 220 },
      mark: { color: "--ink" }, text: { fill: "--ink", font, fontSize: 11.5 }, rule: { color: "--dim" },
    });
  }

  async function draw(element) {
    await Packed.script("vega");
    const spec = JSON.parse(document.getElementById(`chart-${element.dataset.chart}`).textContent);
    if (element.dataset.only) spec.params[0].value = [{ name: element.dataset.only }]; // the others stay, faint
    drawn.get(element)?.finalize();
    const width = Math.max(element.clientWidth, 240);
    const columns = Math.max(1, Math.floor(width / 170));
    const look = config();
    look.legend.columns = columns;
    const sized = { ...coloured(spec), width: "container", autosize: { type: "fit-x", contains: "padding" } };
    const options = { mode: "vega-lite", actions: false, renderer: "svg", config: look, tooltip: { theme: dark.matches ? "dark" : "light" } };
    const result = await vegaEmbed(element, sized, options);
    drawn.set(element, result);
    element.dataset.drawn = "";
    element.dispatchEvent(new CustomEvent("drawn", { detail: result.view }));
  }

  const near = new IntersectionObserver(entries => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "300px" });

  function watch(part) {
    for (const element of part.querySelectorAll("[data-chart]")) near.observe(element);
  }

  function drawAll(part) {
    for (const element of part.querySelectorAll("[data-chart]:not([data-drawn])")) {
      near.unobserve(element);
      draw(element);
    }
  }

  function start() {
    watch(document);
    // Also what is on a page that is not shown now: drawn again when it comes near.
    dark.addEventListener("change", () => { for (const element of drawn.keys()) near.observe(element); });
  }

  const view = element => drawn.get(element)?.view;
  return { start, watch, drawAll, view };
})();
