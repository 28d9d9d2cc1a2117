// The closed loop of the peers in JavaScript, the same as `src/pools/closed_loop.rs`. `src/pools/plan.rs` has the plan
// and the outcome, one line of JSON each.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

// The packages are in the cache (scripts/setup/peers.sh), not beside this file.
export const packages = createRequire(`${process.env.HEADROOM_CACHE}/bench-peers/`);

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export async function readPlan() {
  const { value } = await input.next();
  return JSON.parse(value);
}

// The value follows from the key, so that every answer can be checked.
export const value = (key) => String(key).padStart(100, '0');
export const name = (key) => `item:${key}`;

// Runs the callers of `plan`. Each calls `request(key)`, which gives whether the answer is correct. Then waits, with
// open connections, until standard input ends: they are counted meanwhile.
export async function measure(plan, request) {
  const counts = { latencies: [], requests: 0, failures: 0, firstFailure: null };
  const begin = performance.now() + plan.warm_up_ms;
  const end = begin + plan.measured_ms;
  setTimeout(() => console.log('begin'), plan.warm_up_ms);
  const callers = [];
  for (let caller = 0; caller < plan.callers; caller++) {
    callers.push(call(request, random(plan.seed + caller), plan.keys, begin, end, counts));
  }
  await Promise.all(callers);
  console.log(JSON.stringify(outcome(counts, plan.measured_ms / 1000)));
  await input.next();
}

async function call(request, next, keys, begin, end, counts) {
  for (;;) {
    const sent = performance.now();
    if (sent >= end) return;
    try {
      if (!(await request(1 + Math.floor(next() * keys)))) throw new Error('the value does not belong to the key');
      counts.requests++;
      const answered = performance.now();
      if (answered >= begin && answered < end) counts.latencies.push(answered - sent);
    } catch (error) {
      counts.failures++;
      counts.firstFailure ??= error.message;
    }
  }
}

function outcome(counts, seconds) {
  const sorted = Float64Array.from(counts.latencies).sort();
  const at = (share) => sorted[Math.round((sorted.length - 1) * share)] ?? 0;
  return {
    answers: sorted.length,
    failures: counts.failures,
    first_failure: counts.firstFailure,
    requests: counts.requests,
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
