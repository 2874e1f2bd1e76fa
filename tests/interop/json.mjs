// For each JSON text: what JSON.parse reads, as JSON.stringify writes it, or null if it refuses the text.

import { answer } from "./requests.mjs";

function reread(text) {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return null;
  }
}

await answer({ parse: ({ texts }) => texts.map(reread) });
