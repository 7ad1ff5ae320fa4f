"use strict";
// Another picture of a circuit than the whole one, with numbers of its own: the paths alone that decide in a large
// circuit (bundle.core), or a larger circuit around it (one of bundle.larger).
//
// CircuitPart.of(bundle, picture, nodes (described), labelOf) → null without a picture, else
//   { picture, has(name), mount(stage, options) }: a drawing as CircuitDrawing.mount's, that takes values by the whole's
//   numbers; nodes that the circuit does not have get none
const CircuitPart = (() => {
  const { describe } = CircuitElements;
  const namesOf = ({ edges: { source, target } }, nodes) => source.map((from, e) => `${nodes[from].name}->${nodes[target[e]].name}`);
  const numbered = names => new Map(names.map((name, n) => [name, n]));

  function of(bundle, picture, nodes, labelOf) {
    const { drawing, explanation } = bundle;
    if (!picture) return null;
    const own = describe(picture), whole = numbered(nodes.map(({ name }) => name)), numbers = own.map(({ name }) => whole.get(name));
    const places = new Map(numbers.map((n, i) => [n, i])), edges = numbered(namesOf(drawing, nodes)), names = namesOf(picture, own);
    const { carried, pushes, paths } = explanation;
    const known = carried && names.every(name => edges.has(name)); // what an added edge carries was not measured
    const options = CircuitWords.of({
      ...bundle, drawing: picture, explanation: {
        nodes: numbers.map(n => explanation.nodes[n] ?? null), paths: paths.map(path => path.map(n => places.get(n))),
        carried: known ? names.map(name => carried[edges.get(name)]) : null, pushes: known && pushes ? numbers.map(n => pushes[n]) : null,
      },
    });

    // The row of this picture that has the same label as one of the whole's; null: it has none.
    function rowOf(row) {
      const [layer, label] = drawing.rows[row] ?? [], found = picture.rows.findIndex(each => each[0] === layer && each[1] === label);
      return found < 0 ? null : found;
    }

    function mount(stage, more) {
      const said = i => (numbers[i] === undefined ? "in larger circuits only" : labelOf(numbers[i]));
      const made = CircuitDrawing.mount(stage, picture, { ...options, ...more, describe: said });
      const show = (values, { scale = 1, row = null } = {}) => made.show(values && numbers.map(n => values[n] ?? 0), { scale, row: row === null ? null : rowOf(row) });
      return { ...made, show };
    }

    return { picture, has: name => own.some(node => node.name === name), mount };
  }

  return { of };
})();
