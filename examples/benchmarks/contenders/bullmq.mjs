// What the Node scripts share: bullmq from tests/interop, and lines of JSON with the benchmark.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const interop = new URL('../../../tests/interop/package.json', import.meta.url);
const require = createRequire(interop);

function load() {
  try {
    return [require('bullmq'), require.resolve('bullmq')];
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error;
    process.stderr.write(
      'the Node package bullmq is not in tests/interop/node_modules: ' +
        'install it with "npm ci --prefix tests/interop"\n',
    );
    process.exit(3);
  }
}

const [loaded, file] = load();
export const bullmq = loaded;

export function versions() {
  const root = file.slice(0, file.lastIndexOf(join('bullmq', 'dist')));
  const { version } = JSON.parse(readFileSync(join(root, 'bullmq', 'package.json'), 'utf8'));
  return { 'bullmq (npm)': version, node: process.version.slice(1) };
}

export function connectionOf(url) {
  const { hostname, port } = new URL(url);
  return { host: hostname, port: Number(port) };
}

export function emit(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
}

// One request after the other, until the benchmark closes our standard input.
export async function answer(operations) {
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    emit(request.op, (await operations[request.op](request)) ?? {});
  }
  process.exit(0);
}
