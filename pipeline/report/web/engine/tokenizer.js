"use strict";
// Text to tokens and back, as pipeline/data/tokenizer.py does it with tiktoken: pieces by the pattern, then byte pairs.
//
// EngineTokenizer.of({ pattern, tokens, end_of_text }) → { endOfText, encode(text) → ids, text(id) }
// `tokens`: the bytes of every token by rank, a character a byte.
const EngineTokenizer = (() => {
  // White space of the pattern is Unicode's; of \s, JavaScript has another idea.
  const own = pattern => pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}");
  const toBytes = new TextEncoder(), toText = new TextDecoder("utf-8", { ignoreBOM: true });

  function of({ pattern, tokens, end_of_text }) {
    const pieces = new RegExp(own(pattern), "gu"), ranks = new Map(tokens.map((token, rank) => [token, rank]));
    const endOfText = tokens.length;
    const known = new Map(); // piece → its ids: code repeats itself

    function encode(text) {
      const ids = [];
      for (const [piece] of text.matchAll(pieces)) {
        if (!known.has(piece)) known.set(piece, ofPiece(latin(toBytes.encode(piece))));
        ids.push(...known.get(piece));
      }
      return ids;
    }

    function ofPiece(bytes) {
      if (ranks.has(bytes)) return [ranks.get(bytes)];
      const parts = [...bytes];
      for (let at = best(parts); at >= 0; at = best(parts)) parts.splice(at, 2, parts[at] + parts[at + 1]);
      return parts.map(part => ranks.get(part));
    }

    // The first of the neighbours that were joined earliest when the merges were learnt; −1: none is a token.
    function best(parts) {
      let found = -1, least = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(parts[i] + parts[i + 1]);
        if (rank < least) { least = rank; found = i; }
      }
      return found;
    }

    // Half a character becomes U+FFFD.
    const bytesOf = id => Uint8Array.from(tokens[id], c => c.charCodeAt(0));
    const text = id => (id === endOfText ? end_of_text : toText.decode(bytesOf(id)));
    return { endOfText, encode, text };
  }

  const latin = bytes => String.fromCharCode(...bytes);
  return { of };
})();
