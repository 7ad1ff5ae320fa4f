"use strict";
// The paths that decide in a large circuit, drawn alone: a picture of some of its nodes, whose numbers are its own.
//
// CircuitCore.of(bundle, nodes (described), labelOf) → null where the bundle has no such picture, else
//   { has(name), mount(stage, options) }: a drawing as CircuitDrawing.mount's, that takes values by the whole's numbers
const CircuitCore = (() => {
  const { describe } = CircuitElements;
  const namesOf = ({ edges: { source, target } }, nodes) => source.map((from, e) => `${nodes[from].name}->${nodes[target[e]].name}`);
  const numbered = names => new Map(names.map((name, n) => [name, n]));

  function of(bundle, nodes, labelOf) {
    const { core, drawing, explanation } = bundle;
    if (!core) return null;
    const own = describe(core), whole = numbered(nodes.map(({ name }) => name)), numbers = own.map(({ name }) => whole.get(name));
    const inCore = new Map(numbers.map((n, i) => [n, i])), edges = numbered(namesOf(drawing, nodes));
    const { carried, pushes, paths } = explanation;
    const options = CircuitWords.of({
      ...bundle, drawing: core, explanation: {
        nodes: numbers.map(n => explanation.nodes[n]), paths: paths.map(path => path.map(n => inCore.get(n))),
        carried: carried && namesOf(core, own).map(name => carried[edges.get(name)]), pushes: pushes && numbers.map(n => pushes[n]),
      },
    });

    // The row of the core's picture that has the same label as one of the whole's; null: it has none.
    function rowOf(row) {
      const [layer, label] = drawing.rows[row] ?? [], found = core.rows.findIndex(each => each[0] === layer && each[1] === label);
      return found < 0 ? null : found;
    }

    function mount(stage, more) {
      const made = CircuitDrawing.mount(stage, core, { ...options, ...more, describe: i => labelOf(numbers[i]) });
      const show = (values, { scale = 1, row = null } = {}) => made.show(values && numbers.map(n => values[n]), { scale, row: row === null ? null : rowOf(row) });
      return { ...made, show };
    }

    return { has: name => own.some(node => node.name === name), mount };
  }

  return { of };
})();
