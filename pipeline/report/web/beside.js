"use strict";
// The same task's circuit in another model, drawn beside a circuit.
//
// CircuitBeside.of(stages, task) → { show(model or null, look), clear() }: the other drawing stands behind the first
const CircuitBeside = (() => {
  const { make } = CircuitElements;

  function of(stages, task) {
    let shown = null, drawing = null, place = null;

    function clear() {
      drawing?.destroy();
      place?.remove();
      drawing = place = null;
    }

    async function show(model, look) {
      if (model !== shown) {
        clear();
        shown = model;
        const id = CircuitBundles.id(model, task);
        if (model !== null && Packed.has(id)) {
          const bundle = await CircuitBundles.of(id);
          if (shown !== model) return; // another one was asked for meanwhile
          mount(bundle, model);
        }
      }
      stages.classList.toggle("two", drawing !== null);
      drawing?.see({ by: look.by, least: look.least });
    }

    function mount(bundle, model) {
      const stage = make("div", { class: "cp-stage cp-other" });
      place = make("figure", { class: "cp-beside" }, make("figcaption", {}, make("a", { href: `#/circuit/${model}/${task}` }, model),
        ` ${bundle.row.n_nodes} nodes, ${bundle.row.n_edges} edges`), stage);
      stages.append(place);
      stages.classList.add("two");
      const options = CircuitWords.of(bundle);
      drawing = CircuitDrawing.mount(stage, bundle.drawing, { ...options, describe: n => options.said(n)?.text ?? "" });
    }

    return { show, clear };
  }

  return { of };
})();
