// Callers that each ask, wait for the answer, and ask again: the same as `src/pools/closed_loop.rs`. What is told
// and answered, a line of JSON each, is in `src/pools/plan.rs`.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// The packages are in the cache (scripts/setup/peers.sh), not beside this file.
export const packages = createRequire(`${process.env.HEADROOM_CACHE}/bench-peers/`);

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export async function readPlan() {
  const { value } = await input.next();
  return JSON.parse(value);
}

// The value of a key can be told from it, so that every answer can be checked.
export const value = (key) => String(key).padStart(100, '0');
export const name = (key) => `item:${key}`;

// Asks `ask(key)`, which says whether the answer is right, as `plan` says. The caller's connections stay open until
// they have been counted.
export async function measure(plan, ask) {
  const seen = { latencies: [], requests: 0, failures: 0, firstFailure: null };
  const begin = performance.now() + plan.warm_up_ms;
  const end = begin + plan.measured_ms;
  setTimeout(() => console.log('begin'), plan.warm_up_ms);
  const callers = [];
  for (let caller = 0; caller < plan.callers; caller++) {
    callers.push(call(ask, random(plan.seed + caller), plan.keys, begin, end, seen));
  }
  await Promise.all(callers);
  console.log(JSON.stringify(outcome(seen, plan.measured_ms / 1000)));
  await input.next();
}

async function call(ask, next, keys, begin, end, seen) {
  for (;;) {
    const asked = performance.now();
    if (asked >= end) return;
    try {
      if (!(await ask(1 + Math.floor(next() * keys)))) throw new Error('the answer is not the one of the key');
      seen.requests++;
      const answered = performance.now();
      if (answered >= begin && answered < end) seen.latencies.push(answered - asked);
    } catch (error) {
      seen.failures++;
      seen.firstFailure ??= error.message;
    }
  }
}

function outcome(seen, seconds) {
  const sorted = Float64Array.from(seen.latencies).sort();
  const at = (share) => sorted[Math.round((sorted.length - 1) * share)] ?? 0;
  return {
    answers: sorted.length,
    failures: seen.failures,
    first_failure: seen.firstFailure,
    requests: seen.requests,
    seconds,
    p50_ms: at(0.5),
    p99_ms: at(0.99),
    p999_ms: at(0.999),
    max_ms: at(1),
  };
}

// Mulberry32 (T. Ettinger): the same keys at every run, from 0 to less than 1.
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
