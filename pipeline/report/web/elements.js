"use strict";
// Making elements, and writing numbers, tokens and the names of nodes. Text is only ever set as text: code is untrusted.
const CircuitElements = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
    return element;
  }

  const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  // Three significant digits, with a true minus.
  function number(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    const text = size >= 1000 ? Math.round(size).toLocaleString("en") : String(Number(size.toPrecision(3)));
    return (value < 0 && text !== "0" ? "−" : "") + text;
  }

  const SIGNS = { "\n": "⏎", "\r": "␍", "\t": "⇥" };
  const sign = text => text.replace(/[\n\r\t]/g, found => SIGNS[found]);
  // Blanks too, three or more of them as their number (pipeline/whitespace.py).
  const visible = text => sign(text).replace(/ {3,}/g, run => `␣×${run.length}`).replace(/ /g, "␣");
  // A token inside of code: line ends are marked and kept.
  const inCode = text => text.replace(/\r/g, "␍").replace(/\n/g, "⏎\n");

  // Text in which tokens stand between back quotes: the tokens as code in a box; or without the quotes.
  const parted = text => text.split(/`([^`]+|`)`/);
  const words = text => parted(text).map((part, i) => (i % 2 ? make("code", { class: "tok" }, part) : part));
  const bare = text => parted(text).join("");

  // Background for a value: blue above, orange below, transparent at 0; `share` from −1 to 1.
  function tint(share, base = "transparent") {
    const size = Math.round(Math.min(Math.abs(share), 1) * 78);
    return size ? `color-mix(in srgb, var(--${share < 0 ? "negative" : "positive"}) ${size}%, ${base})` : base;
  }

  const SPOKEN = {
    attn_in: (layer, index) => `layer ${layer}, attention reads residual channel ${index}`,
    attn_out: (layer, index) => `layer ${layer}, attention writes residual channel ${index}`,
    mlp_in: (layer, index) => `layer ${layer}, MLP reads residual channel ${index}`,
    mlp_neuron: (layer, index) => `layer ${layer}, neuron ${index}`,
    mlp_out: (layer, index) => `layer ${layer}, MLP writes residual channel ${index}`,
  };
  const IN_HEAD = { attn_q: "query", attn_k: "key", attn_v: "value" };

  // A picture's nodes: name, the field's words for it, kind (colour), short label.
  function describe(drawing) {
    return drawing.nodes.site.map((site, n) => {
      const key = drawing.sites[site], index = drawing.nodes.index[n];
      const [layer, place] = key.split(".");
      const part = IN_HEAD[place];
      const spoken = part
        ? `head ${layer}.${Math.floor(index / drawing.d_head)}, ${part} channel ${index % drawing.d_head}`
        : SPOKEN[place](layer, index);
      const kind = part ? part[0] : place === "mlp_neuron" ? "mlp" : "res";
      return { name: `${key}.${index}`, spoken, kind, place, layer: Number(layer), short: (part ? part[0] : "") + index };
    });
  }

  // Buttons of which one is pressed; `choose(value)` is called at once for the first or given one only by the caller.
  function choice(label, options, chosen, choose) {
    const buttons = options.map(([value, text]) => make("button", {
      type: "button", "aria-pressed": String(value === chosen), onclick: event => {
        for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
        choose(value);
      },
    }, text));
    return make("div", { class: "cc-choice", role: "group", "aria-label": label }, buttons);
  }

  return { make, draw, number, sign, visible, inCode, parted, words, bare, tint, describe, choice };
})();
