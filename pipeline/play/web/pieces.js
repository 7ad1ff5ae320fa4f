"use strict";
// What the page of `sparse-circuits play` is made of: elements, numbers, bars of values, answers of the server.
const PlayPieces = (() => {
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && name !== "style" && name !== "role") element[name] = value;
      else if (value !== null) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const number = (x) => (x === 0 ? "0" : Math.abs(x) < 0.0095 || Math.abs(x) >= 1000 ? x.toPrecision(2) : x.toFixed(2)).replace("-", "−");
  const signed = (x) => (x > 0 ? "+" : "") + number(x);
  const percent = (p) => (p >= 0.9995 || p < 0.0005 ? (100 * p).toPrecision(p > 0.5 ? 5 : 1) : (100 * p).toFixed(1)) + " %";
  const sign = (x) => (x < 0 ? "n" : "p");

  async function fetched(url, options) {
    const response = await fetch(url, options);
    const value = await response.json().catch(() => ({ error: `the server says ${response.status}` }));
    if (!response.ok) throw new Error(value.error);
    return value;
  }

  function diverging({ now, before, ablated, scale }) {
    const piece = (x, kind) => {
      const width = (50 * Math.abs(x)) / scale;
      return make("b", { className: `${sign(x)} ${kind}`, style: `width:${width}%;left:${x < 0 ? 50 - width : 50}%` });
    };
    const pieces = now === before ? [piece(now, "")] : [piece(before, "was"), piece(now, "")];
    const tick = ablated === null ? [] : [make("u", { style: `left:${50 + (50 * ablated) / scale}%` })];
    return make("span", { className: "dv" }, ...pieces, ...tick);
  }

  return { make, number, signed, percent, sign, fetched, diverging };
})();
