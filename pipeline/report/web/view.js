"use strict";
// How a drawing lies in its window: moved and zoomed by pointers, wheel, keys and buttons.
//
// CircuitView.of(host, drawing, later) → { view: { x, y, k }, fitting, fit, zoom, move, reveal }; `later()` is called
// after each change. CircuitView.listen(host, moves, { at(event) → node or null, over(event), tap(node, event), left() })
const CircuitView = (() => {
  const MOST_ZOOM = 6, STEP = 60, IN_SIGHT = 60; // pixels: of an arrow key; of the picture that stay in sight
  const DRAGGED = 4; // pixels from which a press is no click

  function of(host, drawing, later) {
    const view = { x: 0, y: 0, k: 1 };
    const fitting = () => Math.min(host.clientWidth / drawing.width, host.clientHeight / drawing.height, 1.6);

    // The whole picture; at first, where that would be too small to read, a readable part of it.
    function fit(whole) {
      const { clientWidth: width, clientHeight: height } = host;
      view.k = whole ? fitting() : Math.max(fitting(), Math.min(width < 600 ? 0.8 : 0.6, height / drawing.height));
      view.x = view.k * drawing.width <= width ? (width - view.k * drawing.width) / 2 : 0;
      view.y = (height - view.k * drawing.height) / 2;
      later();
    }

    function zoom(factor, x = host.clientWidth / 2, y = host.clientHeight / 2) {
      const k = Math.min(Math.max(view.k * factor, fitting() * 0.6), MOST_ZOOM);
      view.x = x - (x - view.x) * k / view.k;
      view.y = y - (y - view.y) * k / view.k;
      view.k = k;
      later();
    }

    // At least a corner of the picture stays in sight.
    function move(dx, dy) {
      view.x = Math.min(Math.max(view.x + dx, IN_SIGHT - view.k * drawing.width), host.clientWidth - IN_SIGHT);
      view.y = Math.min(Math.max(view.y + dy, IN_SIGHT - view.k * drawing.height), host.clientHeight - IN_SIGHT);
      later();
    }

    function reveal(x, y) {
      const margin = 40, over = (at, size) => (at < margin ? margin - at : at > size - margin ? size - margin - at : 0);
      move(over(view.x + view.k * x, host.clientWidth), over(view.y + view.k * y, host.clientHeight));
    }

    return { view, fitting, fit, zoom, move, reveal };
  }

  function listen(host, moves, { at, over, tap, left }) {
    const pointers = new Map();
    let dragged = 0;
    const place = event => {
      const box = host.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    host.addEventListener("pointerdown", event => {
      if (event.target.closest("button") || (event.pointerType === "mouse" && event.button !== 0)) return;
      pointers.set(event.pointerId, place(event));
      if (pointers.size === 1) dragged = 0;
    });
    host.addEventListener("pointermove", event => {
      const [x, y] = place(event), before = pointers.get(event.pointerId);
      if (!before) return over(at(event), x, y);
      dragged += Math.hypot(x - before[0], y - before[1]);
      if (dragged > DRAGGED && !host.hasPointerCapture(event.pointerId)) host.setPointerCapture(event.pointerId);
      if (pointers.size === 2) pinch(event.pointerId, before, [x, y]);
      else moves.move(x - before[0], y - before[1]);
      pointers.set(event.pointerId, [x, y]);
      host.classList.toggle("dragging", dragged > DRAGGED);
    });
    function pinch(id, before, now) {
      const other = [...pointers].find(([each]) => each !== id)[1];
      const apart = p => Math.max(Math.hypot(p[0] - other[0], p[1] - other[1]), 1);
      moves.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      moves.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    const release = event => {
      pointers.delete(event.pointerId);
      if (!pointers.size) host.classList.remove("dragging");
    };
    host.addEventListener("pointerup", release);
    host.addEventListener("pointercancel", release);
    host.addEventListener("pointerleave", () => { if (!pointers.size) left(); });
    host.addEventListener("focusout", () => { if (!pointers.size) left(); });
    host.addEventListener("click", event => {
      if (dragged <= DRAGGED && !event.target.closest("button")) tap(at(event), event.shiftKey);
    });
    // The wheel zooms once the drawing has the focus (or with Ctrl), so that the page can still be scrolled past it.
    host.addEventListener("wheel", event => {
      if (!event.ctrlKey && !event.metaKey && !host.contains(document.activeElement)) return;
      event.preventDefault();
      moves.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...place(event));
    }, { passive: false });
    const keys = {
      ArrowLeft: () => moves.move(STEP, 0), ArrowRight: () => moves.move(-STEP, 0), ArrowUp: () => moves.move(0, STEP),
      ArrowDown: () => moves.move(0, -STEP), "+": () => moves.zoom(1.25), "=": () => moves.zoom(1.25), "-": () => moves.zoom(0.8),
      "0": () => moves.fit(true), Escape: () => tap(null, false),
    };
    host.addEventListener("keydown", event => {
      const n = at(event);
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (n !== null && (event.key === "Enter" || event.key === " ")) tap(n, event.shiftKey);
      else if (n !== null && event.key === "p") tap(n, true);
      else if (keys[event.key]) keys[event.key]();
      else return;
      event.preventDefault();
    });
  }

  return { of, listen };
})();
