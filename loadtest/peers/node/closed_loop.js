// The closed loop of the peers in JavaScript, the same as `src/pools/plan.rs`, which has the plan and the
// outcome.

import { createRequire } from 'node:module';

// The packages are in the cache (scripts/setup/peers.sh), not beside this file.
export const packages = createRequire(`${process.env.HEADROOM_CACHE}/bench-peers/`);

export const plan = JSON.parse(process.env.HEADROOM_LOADTEST_PLAN);

// The value follows from the key, so that every answer can be checked.
export const value = (key) => String(key).padStart(100, '0');

// Runs the callers. Each calls `request(key)`, which gives whether the answer is correct. Prints the outcome.
export async function measure(request) {
  const counts = { latencies: [], requests: 0, failures: 0, firstFailure: null };
  const begin = performance.now() + plan.warm_up_ms;
  const end = begin + plan.measured_ms;
  const callers = [];
  for (let caller = 0; caller < plan.callers; caller++) {
    callers.push(call(request, random(plan.seed + caller), begin, end, counts));
  }
  await Promise.all(callers);
  console.log(JSON.stringify(outcome(counts)));
}

async function call(request, next, begin, end, counts) {
  for (;;) {
    const sent = performance.now();
    if (sent >= end) return;
    try {
      if (!(await request(1 + Math.floor(next() * plan.keys)))) throw new Error('the value does not belong to the key');
      counts.requests++;
      const answered = performance.now();
      if (answered >= begin && answered < end) counts.latencies.push(answered - sent);
    } catch (error) {
      counts.failures++;
      counts.firstFailure ??= error.message;
    }
  }
}

function outcome(counts) {
  const sorted = Float64Array.from(counts.latencies).sort();
  const at = (share) => sorted[Math.round((sorted.length - 1) * share)] ?? 0;
  return {
    answers: sorted.length,
    requests: counts.requests,
    failures: counts.failures,
    first_failure: counts.firstFailure,
    seconds: plan.measured_ms / 1000,
    latency: { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1) },
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
