"use strict";
// How a circuit's drawing is looked at, and the same as a part of the address: which number edges are drawn by, how many
// of them, pins, groups, the other model beside it. All that is as at first is left out.
//
// CircuitLook.first → a look; CircuitLook.read(query) → a look; CircuitLook.write(look) → "by=weight&pin=…", or ""
const CircuitLook = (() => {
  const first = Object.freeze({
    by: "carried", // or "weight"
    least: 0, // share of the largest of its kind that an edge has to have
    size: null, // of the circuit of the most needed edges; null: all
    only: false, // paths through all pins
    pins: [], groups: [], // node names; { name, nodes: node names }
    beside: null, // another model's name
    full: false, // as high as the window
    whole: false, // all of a large circuit, not the paths alone that decide
  });
  const BETWEEN = "~"; // of a group's name and its nodes

  const within = (text, low, high) => (text !== null && Number(text) >= low && Number(text) <= high ? Number(text) : null);

  function read(query) {
    const written = new URLSearchParams(query);
    return {
      by: written.get("by") === "weight" ? "weight" : "carried", least: within(written.get("least"), 0, 1) ?? 0,
      size: within(written.get("size"), 1, Infinity), only: written.get("only") === "1", pins: [...new Set(written.getAll("pin"))],
      groups: written.getAll("group").map(group => group.split(BETWEEN)).filter(([name, ...nodes]) => name && nodes.length)
        .map(([name, ...nodes]) => ({ name, nodes })),
      beside: written.get("beside"), full: written.get("full") === "1", whole: written.get("whole") === "1",
    };
  }

  function write(look) {
    const written = new URLSearchParams();
    if (look.by !== first.by) written.set("by", look.by);
    if (look.least > 0) written.set("least", look.least);
    if (look.size !== null) written.set("size", look.size);
    if (look.only) written.set("only", 1);
    for (const pin of look.pins) written.append("pin", pin);
    for (const { name, nodes } of look.groups) written.append("group", [name.replaceAll(BETWEEN, "-"), ...nodes].join(BETWEEN));
    if (look.beside) written.set("beside", look.beside);
    if (look.full) written.set("full", 1);
    if (look.whole) written.set("whole", 1);
    return String(written);
  }

  return { first, read, write };
})();
