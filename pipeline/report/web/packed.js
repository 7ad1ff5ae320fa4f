"use strict";
// Parts of the page that lie packed in it (gzip in base64, one script element each) until they are needed.
const Packed = (() => {
  function unpacked(id) {
    const element = document.getElementById(id);
    if (!element) return null;
    const packed = Uint8Array.from(atob(element.textContent.trim()), c => c.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
  }

  const text = async id => unpacked(id)?.text() ?? null;
  const bytes = async id => new Uint8Array(await unpacked(id).arrayBuffer());

  // Runs a packed script; `once` remembers it.
  const running = new Map();
  function script(id) {
    if (!running.has(id)) {
      running.set(id, text(id).then(source => {
        const element = document.createElement("script");
        element.textContent = source;
        document.head.append(element);
      }));
    }
    return running.get(id);
  }

  const json = async id => JSON.parse(await text(id));
  return { text, bytes, json, script, has: id => document.getElementById(id) !== null };
})();
